//! `smt bench report`: a document from saved runs.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::bench::environment::command;
use crate::bench::evaluation::document::{Block, html, markdown};
use crate::bench::evaluation::{self, TITLE, data::Data};
use crate::bench::saved;
use crate::commands::Error;
use crate::output::Printer;

const AFTER: &str = "\
Examples:
  smt bench rtt --save smt-bench; smt bench load --save smt-bench
  smt bench report smt-bench --out docs/evaluation.md
  smt bench report smt-bench --html evaluation.html

Plots go to a directory beside the document, named as it is without its end. Of each result the newest run counts.";

/// The arguments of `smt bench report`.
#[derive(Debug, Args)]
#[command(about = "Make a document with tables and plots from saved runs", after_help = AFTER)]
pub struct Arguments {
    /// Directories that --save wrote to, or files in them
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// The document to write, in Markdown
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// One HTML page to write, with everything in it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Reads, and writes.
///
/// # Errors
/// A run cannot be read, there is none, or a file cannot be written.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let mut runs = Vec::new();
    for path in &arguments.runs {
        runs.extend(saved::read(path)?);
    }
    if runs.is_empty() {
        return Err(Error::Failed("no runs there: smt bench rtt --save DIR makes one".to_owned()));
    }
    runs.sort_by_key(|run| run.environment["unix_seconds"].as_u64());
    let blocks = evaluation::document(&Data::new(runs), &command());
    let printer = Printer::new(arguments.json);
    let told =
        |file: &Path| printer.say(format!("wrote {}", file.display()), &json!({ "wrote": file }));
    if let Some(file) = &arguments.out {
        let plots = file.with_extension("");
        let name = plots.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for block in &blocks {
            if let Block::Plot(_, name, svg) = block {
                write(&plots.join(format!("{name}.svg")), svg)?;
            }
        }
        write(file, &markdown(&blocks, &name))?;
        told(file)?;
    }
    if let Some(file) = &arguments.html {
        write(file, &html(TITLE, &blocks))?;
        told(file)?;
    }
    if arguments.out.is_none() && arguments.html.is_none() {
        printer.text(markdown(&blocks, "evaluation"))?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(file, text))
        .map_err(Error::io(format!("cannot write {}", file.display())))
}
