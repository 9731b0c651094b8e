//! What the demonstration shows while it goes on.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::commands::Error;
use crate::output::{Printer, duration, nanoseconds};

/// Standard output for results, and a line on standard error for what is under way, if that is a terminal.
pub(super) struct Screen {
    pub(super) printer: Printer,
    failed: usize,
}

/// A step under way.
pub(super) struct Step {
    tag: &'static str,
    start: Instant,
    bar: ProgressBar,
}

impl Step {
    /// Shows that `done` of `all` is done.
    pub(super) fn progress(&self, done: u64, all: u64) {
        self.bar.set_length(all);
        self.bar.set_position(done);
    }
}

impl Screen {
    pub(super) fn new(json: bool) -> Screen {
        Screen { printer: Printer::new(json), failed: 0 }
    }

    /// How many steps have failed.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    pub(super) fn begin(&self, tag: &'static str, title: &str) -> Step {
        let bar = if !self.printer.is_json() && io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("  {spinner} {msg} {bar:24} {percent} %");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(1).with_style(style).with_message(title.to_owned())
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(120));
        Step { tag, start: Instant::now(), bar }
    }

    /// Says how a step ended: its headline and details, or why it failed.
    pub(super) fn end(
        &mut self,
        step: Step,
        title: &str,
        outcome: Result<Told, Error>,
    ) -> Result<(), Error> {
        step.bar.finish_and_clear();
        let elapsed = step.start.elapsed();
        let printer = &self.printer;
        let took = printer.dim(format!("({})", duration(elapsed)));
        let mut object = json!({"step": step.tag});
        match outcome {
            Ok(told) => {
                printer.text(format!("  {} {title}  {took}", printer.good("✓")))?;
                told.lines.iter().try_for_each(|line| printer.text(format!("      {line}")))?;
                object["ok"] = json!(true);
                merge(&mut object, told.object);
            }
            Err(error) => {
                self.failed += 1;
                let why = error.explain();
                printer.text(format!("  {} {title}  {took}", printer.bad("✗")))?;
                printer.text(format!("      {why}"))?;
                object["ok"] = json!(false);
                object["why"] = json!(why);
            }
        }
        object["step_ns"] = json!(nanoseconds(elapsed));
        Ok(printer.object(&object)?)
    }
}

/// What a step has to tell: lines for people, members of its object for programs.
#[derive(Default)]
pub(super) struct Told {
    pub(super) lines: Vec<String>,
    pub(super) object: Value,
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}
