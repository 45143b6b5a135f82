//! Who is there: users at the platform's web ports, people logged in on this machine, and ourselves.

use super::services::Units;
use super::{Check, Look, Verdict, counted, few};
use crate::source::process::machine::{connections, logins, own_terminals};

pub(super) fn look(look: &Look<'_>, _units: Units) -> Vec<Check> {
    let mut checks = Vec::new();
    if look.is_full() {
        checks.push(users(look).of("users"));
        checks.push(logged_in(look).of("logins"));
        checks.push(rights().of("rights"));
    }
    checks
}

fn users(look: &Look<'_>) -> Verdict {
    let ports = &look.profile.processes.user_ports;
    if ports.is_empty() {
        let advice = "name the platform's web ports in processes.user-ports";
        return Verdict::unknown("the profile names no port of users", advice);
    }
    let connected = match connections(ports) {
        Ok(connected) => connected,
        Err(error) => return Verdict::of_error(&error, "is /proc mounted?"),
    };
    let from_here: u64 = connected.values().map(|port| port.from_here).sum();
    let others: u64 = connected.values().map(|port| port.count.saturating_sub(port.from_here)).sum();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let ports = ports.join(", ");
    if others == 0 {
        let own = match from_here {
            0 => String::new(),
            count => format!("; {} from this machine itself, which are no users", counted(count, "connection")),
        };
        return Verdict::pass(format!("nobody is connected to port {ports}{own}"));
    }
    let mut addresses: Vec<String> =
        connected.values().flat_map(|port| &port.remote).map(|peer| peer.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    let connections = counted(others, "connection");
    Verdict::fail(
        format!("{connections} from other machines to port {ports}: {}", few(&addresses)),
        "ask these users to sign out and to close their browsers, or wait until they have",
    )
}

fn logged_in(look: &Look<'_>) -> Verdict {
    let stop = || look.monitor.interrupted();
    let advice = "correct processes.who: it lists logins as `who` does";
    let found = match logins(&look.profile.processes.who, &stop) {
        Ok(found) => found,
        Err(error) => return Verdict::of_error(&error, advice),
    };
    let ours = match own_terminals() {
        Ok(ours) => ours,
        Err(error) => return Verdict::of_error(&error, "is /proc mounted?"),
    };
    let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|login| ours.contains(&login.terminal));
    if others.is_empty() {
        let own: Vec<String> = own.into_iter().map(|login| format!("{} on {}", login.user, login.terminal)).collect();
        return Verdict::pass(match own.is_empty() {
            true => "nobody is logged in".to_owned(),
            false => format!("nobody but you is logged in: {}", few(&own)),
        });
    }
    let others: Vec<String> =
        others.into_iter().map(|login| format!("{} on {} {}", login.user, login.terminal, login.detail)).collect();
    Verdict::fail(few(&others), "ask them to log out; `loginctl` lists sessions")
}

fn rights() -> Verdict {
    let user = rustix::process::geteuid();
    match user.is_root() {
        true => Verdict::pass("this is root"),
        false => Verdict::fail(
            format!("this is user {}, who can neither stop services nor read everything", user.as_raw()),
            "run it as root",
        ),
    }
}
