//! Sums of callgrind's output by layer. A source file of ours belongs to one layer, also where its code was
//! inlined elsewhere. Code of libraries belongs to the function of ours that it was inlined into, if it was.

use std::collections::{BTreeMap, HashMap};

/// A part of what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    /// Headers and preambles.
    Wire,
    /// Header tags, keys and records, without the AEAD.
    Crypto,
    /// One message on its way.
    Message,
    /// RPCs of a session.
    Session,
    /// All sessions: queues, tables, timers.
    Endpoint,
    /// Functions of libraries: hash maps and copying, for example.
    Libraries,
    /// The allocator.
    Heap,
}

impl Layer {
    pub(crate) const ALL: [Layer; 7] = [
        Layer::Wire,
        Layer::Crypto,
        Layer::Message,
        Layer::Session,
        Layer::Endpoint,
        Layer::Libraries,
        Layer::Heap,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Layer::Wire => "wire",
            Layer::Crypto => "crypto",
            Layer::Message => "message",
            Layer::Session => "session",
            Layer::Endpoint => "endpoint",
            Layer::Libraries => "libraries",
            Layer::Heap => "heap",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Layer> {
        Layer::ALL.into_iter().find(|layer| layer.name() == name)
    }

    /// The layer of code from `file` in `function`; `None` for the workload itself.
    fn of(file: &str, function: &str) -> Option<Layer> {
        if let Some((_, ours)) = file.split_once("smt-proto/src/") {
            return Some(Layer::of_module(ours));
        }
        if file.contains("benches/instructions/") || function.contains("instructions::workload") {
            return None;
        }
        if file.contains("malloc") {
            return Some(Layer::Heap);
        }
        let ours = function.split_once("smt_proto::").map(|(_, module)| Layer::of_module(module));
        Some(ours.unwrap_or(Layer::Libraries))
    }

    /// The layer of a module of the core, by a path that begins with it.
    fn of_module(path: &str) -> Layer {
        match path.split(['/', '.', ':']).next().unwrap_or_default() {
            "wire" => Layer::Wire,
            "tag" | "keys" | "record" | "crypto" => Layer::Crypto,
            "message" | "ranges" | "padding" => Layer::Message,
            "session" | "rpc" | "replay" | "rtt" => Layer::Session,
            _ => Layer::Endpoint,
        }
    }
}

/// Instructions by layer in a file of callgrind's: lines `fn=` name the function, `fl=`, `fi=` and `fe=` the
/// source file of those that follow, each a position and a cost; the line behind `calls=` is the cost of what
/// was called, which stands elsewhere.
pub(crate) fn layers(text: &str) -> BTreeMap<Layer, u64> {
    let (mut files, mut functions) = (Names::default(), Names::default());
    let (mut file, mut function) = ("", "");
    let mut is_of_callee = false;
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        match line.split_once('=') {
            Some(("fl" | "fi" | "fe", name)) => file = files.name(name),
            Some(("cfl" | "cfi", name)) => _ = files.name(name),
            Some(("fn", name)) => function = functions.name(name),
            Some(("cfn", name)) => _ = functions.name(name),
            Some(("calls", _)) => is_of_callee = true,
            _ if line
                .starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) =>
            {
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok());
                if !std::mem::take(&mut is_of_callee)
                    && let (Some(layer), Some(cost)) = (Layer::of(file, function), cost)
                {
                    *sums.entry(layer).or_default() += cost;
                }
            }
            _ => {}
        }
    }
    sums
}

/// Names that are written out once, behind a number in parentheses that stands for them later.
#[derive(Default)]
struct Names<'a>(HashMap<&'a str, &'a str>);

impl<'a> Names<'a> {
    fn name(&mut self, text: &'a str) -> &'a str {
        match text.split_once(' ') {
            Some((number, name)) => {
                self.0.insert(number, name);
                name
            }
            None => self.0.get(text).copied().unwrap_or_default(),
        }
    }
}
