//! `outbox status`: how the outbox is.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use outbox::operator::{LaneStatus, Status};
use outbox::store::StoreErrorKind;

use crate::failure::Failure;
use crate::settings::{DatabaseFlags, duration as read_duration};
use crate::{Database, parked, show};

/// Show what waits, who delivers it, and what is parked
///
/// It is cheap however much waits: messages are counted up to 10,000.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Show it again and again, with this pause in between
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        default_missing_value = "2s",
        value_parser = read_duration,
    )]
    watch: Option<Duration>,

    #[command(flatten)]
    database: DatabaseFlags,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let clear = match (args.json, std::io::stdout().is_terminal()) {
        (false, true) => "\x1b[2J\x1b[H",
        _ => "",
    };
    loop {
        match (operator.status().await, args.watch) {
            (Ok(status), watch) => {
                let text = match args.json {
                    true => show::json(&status)?,
                    false => text(&status),
                };
                let clear = watch.map_or("", |_| clear);
                show::print(&format!("{clear}{text}"))?;
            }
            // Whoever watches an outage wants to see its end.
            (Err(error), Some(_)) if error.kind() == StoreErrorKind::Unavailable => {
                eprintln!("{error}");
            }
            (Err(error), _) => return Err(error.into()),
        }
        let Some(pause) = args.watch else {
            return Ok(());
        };
        tokio::time::sleep(pause).await;
    }
}

/// A line for the pause of everything.
pub(crate) const EVERYTHING_IS_PAUSED: &str =
    "paused   everything: `outbox resume --all` lets it go on\n";

/// A line for the pause of a topic.
pub(crate) fn is_paused(topic: &str) -> String {
    format!("paused   the topic {}\n", show::text(topic))
}

fn text(status: &Status) -> String {
    let age = |age: Option<Duration>| show::maybe(age.map(show::duration));
    let mut text = String::new();
    let oldest = match status.oldest {
        Some(oldest) => format!(", the oldest for {}", show::duration(oldest)),
        None => String::new(),
    };
    // Writing to a string can't fail.
    let _ = writeln!(text, "waiting  {}{oldest}", status.waiting);
    let _ = writeln!(text, "parked   {}", status.parked);
    let _ = writeln!(text, "runners  {}", status.runners.len());
    let paused = &status.paused;
    if paused.all {
        text += EVERYTHING_IS_PAUSED;
    }
    text.extend(paused.topics.iter().map(|topic| is_paused(topic)));
    if status.is_deserted() {
        text += "\nNo runner: messages wait, and nobody is there to deliver them. Start one: `outbox run`\n";
    }
    if !status.runners.is_empty() {
        let rows: Vec<_> = status
            .runners
            .iter()
            .map(|runner| {
                let name = show::text(&runner.name);
                [name, age(runner.up), runner.lanes.to_string()]
            })
            .collect();
        let _ = write!(text, "\n{}", show::table(["RUNNER", "UP", "LANES"], &rows));
    }
    let rows: Vec<_> = by_owner(&status.lanes)
        .into_iter()
        .map(|(owner, lanes)| {
            let numbers: Vec<_> = lanes.iter().map(|lane| lane.lane).collect();
            let lease = lanes.iter().filter_map(|lane| lane.lease).min();
            let oldest = lanes.iter().filter_map(|lane| lane.oldest).max();
            [ranges(&numbers), owner, age(lease), age(oldest)]
        })
        .collect();
    let titles = ["LANES", "OWNER", "LEASE ENDS IN", "OLDEST"];
    let _ = write!(text, "\n{}", show::table(titles, &rows));
    if !status.parked_keys.is_empty() {
        let _ = write!(text, "\n{}", parked::table(&status.parked_keys));
    }
    text
}

/// The lanes that somebody holds, or nobody, in the order of their first ones.
fn by_owner(lanes: &[LaneStatus]) -> Vec<(String, Vec<&LaneStatus>)> {
    let mut owners: Vec<(String, Vec<&LaneStatus>)> = Vec::new();
    for lane in lanes {
        let owner = owner(lane);
        match owners.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, lanes)) => lanes.push(lane),
            None => owners.push((owner, vec![lane])),
        }
    }
    owners
}

/// Numbers in ascending order, as `0-4,7`.
fn ranges(numbers: &[i16]) -> String {
    let mut ranges: Vec<(i16, i16)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = |(first, last): &(i16, i16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Who holds a lane. One whose runner died is free, though it still stands there.
fn owner(lane: &LaneStatus) -> String {
    let name = || {
        let id = lane.owner?.to_string();
        Some(show::text(lane.owner_name.as_deref().unwrap_or(&id)))
    };
    show::maybe(lane.lease.and_then(|_| name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_together() {
        for (numbers, expected) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[0, 1, 2, 4, 7, 8], "0-2,4,7-8"),
        ] {
            assert_eq!(ranges(numbers), expected);
        }
    }
}
