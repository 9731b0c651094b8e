//! Makes a failing scenario smaller: takes parts away as long as the same rule is broken.

use super::run::Options;
use super::{Report, run};
use crate::check::Violation;
use crate::scenario::{Padding, Scenario, Sessions};

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest scenario found that breaks the rule.
    pub scenario: Scenario,
    /// How it does.
    pub violation: Violation,
    /// Runs that it took.
    pub tries: u32,
}

/// Shrinks a scenario that broke a rule, in at most `tries` runs made with what `options` gives.
pub fn shrink(
    scenario: &Scenario,
    violation: &Violation,
    tries: u32,
    options: impl Fn() -> Options,
) -> Shrunk {
    let mut best = Shrunk { scenario: scenario.clone(), violation: violation.clone(), tries: 0 };
    let mut progress = true;
    while progress && best.tries < tries {
        progress = false;
        let mut number = 0;
        while best.tries < tries {
            let Some(smaller) = candidate(&best.scenario, number) else { break };
            number += 1;
            if smaller == best.scenario || smaller.validate().is_err() {
                continue;
            }
            best.tries += 1;
            let Report { violation: found, .. } = run(&smaller, options());
            if let Some(found) = found.filter(|found| found.rule == best.violation.rule) {
                (best.scenario, best.violation, progress) = (smaller, found, true);
                // What follows has moved up into its place.
                number -= 1;
            }
        }
    }
    best
}

/// The `number`th way to take something away from a scenario; `None` when there are no more.
fn candidate(scenario: &Scenario, number: usize) -> Option<Scenario> {
    let mut smaller = scenario.clone();
    let mut number = number;
    if number < 8 {
        simplify(&mut smaller, number);
        return Some(smaller);
    }
    number -= 8;
    if let Some(attack) = &scenario.attack {
        if number < attack.parts() {
            let rest = attack.without(number);
            smaller.net = scenario.net.clone();
            smaller.attack = (!rest.is_none()).then_some(rest);
            fit_network(&mut smaller);
            return Some(smaller);
        }
        number -= attack.parts();
    }
    if number < scenario.faults.len() {
        smaller.faults.remove(number);
        return Some(smaller);
    }
    number -= scenario.faults.len();
    if number < scenario.host_faults.len() {
        smaller.host_faults.remove(number);
        return Some(smaller);
    }
    number -= scenario.host_faults.len();
    let host = smaller.hosts.get_mut(number / 2)?;
    if number.is_multiple_of(2) {
        host.calls /= 2;
    } else {
        *host = crate::scenario::HostConfig {
            calls: host.calls,
            room: host.room,
            ..Default::default()
        };
    }
    Some(smaller)
}

/// The eight changes that concern the whole run.
fn simplify(scenario: &mut Scenario, number: usize) {
    match number {
        0 => scenario.attack = None,
        1 => scenario.faults.clear(),
        2 => scenario.host_faults.clear(),
        3 => scenario.hosts.iter_mut().for_each(|host| host.calls /= 2),
        4 => remove_last_host(scenario),
        5 => scenario.sessions = Sessions::External,
        6 => scenario.net = Default::default(),
        _ => scenario.hosts.iter_mut().for_each(|host| host.padding = Padding::None),
    }
    fit_network(scenario);
}

fn remove_last_host(scenario: &mut Scenario) {
    // Hosts of attackers follow the honest ones and would change their numbers.
    if scenario.hosts.len() > 2 && scenario.intruders() == 0 {
        scenario.hosts.pop();
        let honest = scenario.honest();
        scenario.host_faults.retain(|fault| fault.host < honest);
    }
}

/// Gives the network as many hosts as there are.
fn fit_network(scenario: &mut Scenario) {
    let hosts = scenario.honest() + scenario.intruders();
    if scenario.net.hosts() != hosts
        && let crate::net::Topology::Switch { hosts: places } = &mut scenario.net.topology
    {
        *places = hosts;
    }
}
