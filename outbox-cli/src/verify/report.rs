//! What was found, for people and programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use super::judge::{Archived, Finding, Kind, Known, Unknown};
use super::{tables, topics};
use crate::failure::Failure;
use crate::show;

/// What is told of all kinds, also where nothing was found.
const KINDS: [Kind; 5] = [
    Kind::Lost,
    Kind::Phantom,
    Kind::Reordered,
    Kind::Duplicate,
    Kind::Suspect,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Phantom => "phantom",
            Self::Reordered => "reordered",
            Self::Duplicate => "duplicate",
            Self::Suspect => "suspect",
        }
    }
}

pub(super) struct Report {
    names: Vec<String>,
    exactly_once: bool,
    most: usize,
    pub(super) topics: topics::Counts,
    pub(super) tables: tables::Counts,
    pub(super) not_judged: Unknown,
    notes: Vec<String>,
    counts: BTreeMap<Kind, u64>,
    findings: BTreeMap<Kind, Vec<Finding>>,
}

impl Report {
    pub(super) fn new(names: &[String], exactly_once: bool, most: usize) -> Self {
        Self {
            names: names.to_vec(),
            exactly_once,
            most,
            topics: topics::Counts::default(),
            tables: tables::Counts::default(),
            not_judged: Unknown::default(),
            notes: Vec::new(),
            counts: BTreeMap::new(),
            findings: BTreeMap::new(),
        }
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Says what can't be known of a topic.
    pub(super) fn explain_topic(&mut self, name: &str, known: &Known) {
        if known.is_compacted {
            self.note(format!(
                "the topic {name} is compacted, so nothing in it can be called lost"
            ));
        }
        match known.dropped_before.values().max() {
            None => {}
            Some(&i64::MAX) => self.note(format!(
                "a partition of the topic {name} was emptied, so what may have been in it can't be called lost"
            )),
            Some(&before) => self.note(format!(
                "of the topic {name}, what was written before {} is not there or was not read, and not called lost",
                time(before)
            )),
        }
        if known.hidden_after.is_some() {
            self.note(format!(
                "in the topic {name} a transaction is open; what stands behind it can't be seen, and is not \
                 called lost"
            ));
        }
    }

    /// Says what can't be known from the archive.
    pub(super) fn explain_archive(&mut self, archive: Option<Archived>, said: Option<bool>) {
        self.note(match (archive, said) {
            (None, Some(false)) => "delivered messages are deleted, not archived: nothing can be called lost or \
                 phantom, and of the order there are only the times in the ids, which prove nothing"
                .to_owned(),
            (None, _) => "there is no archive (`outbox run --completion archive`): nothing can be called lost or \
                 phantom, and of the order there are only the times in the ids, which prove nothing"
                .to_owned(),
            (Some(Archived { from, to, goes_on: false }), _) => format!(
                "the archive has what was delivered from {} to {}; what came before or after is not called \
                 phantom (say --completion archive if it goes on)",
                time(from),
                time(to)
            ),
            (Some(Archived { from, .. }), _) => format!(
                "the archive begins with what was delivered at {}; what came before is not called phantom",
                time(from)
            ),
        });
    }

    pub(super) fn found(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind).or_default() += 1;
        let shown = self.findings.entry(finding.kind).or_default();
        if shown.len() < self.most {
            shown.push(finding);
        }
    }

    fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// How many findings break a promise.
    fn faults(&self) -> u64 {
        let faults = KINDS.into_iter().filter(|kind| match kind {
            Kind::Lost | Kind::Phantom | Kind::Reordered => true,
            Kind::Duplicate => self.exactly_once,
            Kind::Suspect => false,
        });
        faults.map(|kind| self.count(kind)).sum()
    }

    /// Shows it, and fails if there are faults.
    pub(super) fn show(mut self, json: bool) -> Result<(), Failure> {
        for findings in self.findings.values_mut() {
            findings.sort_by_key(|finding| (finding.topic, finding.at, finding.id));
        }
        let text = match json {
            true => self.json()?,
            false => self.text(),
        };
        show::print(&text)?;
        match self.faults() {
            0 => Ok(()),
            1 => Err(Failure::Failed("there is a fault".to_owned())),
            faults => Err(Failure::Failed(format!("there are {faults} faults"))),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        for finding in self.findings.values().flatten() {
            let _ = writeln!(text, "{}", self.line(finding));
        }
        for kind in KINDS {
            let shown = self.findings.get(&kind).map_or(0, Vec::len);
            let more = self.count(kind).saturating_sub(shown as u64);
            if more > 0 {
                let _ = writeln!(text, "{:10} and {more} more", kind.name());
            }
        }
        if !text.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "Note: {}.", show::text(note));
        }
        let (topics, tables) = (self.topics, self.tables);
        let _ = writeln!(
            text,
            "\nin the topics  {} records{}\nin the tables  {} archived, {} waiting, {} parked, {} dead letters\n",
            topics.records,
            match topics.foreign {
                0 => String::new(),
                foreign => format!(", {foreign} of them not from the outbox"),
            },
            tables.archived,
            tables.waiting,
            tables.parked,
            tables.dead,
        );
        let unknown = self.not_judged;
        for (kind, unknown) in [
            (Kind::Lost, unknown.lost),
            (Kind::Phantom, unknown.phantom),
            (Kind::Reordered, unknown.order),
            (Kind::Duplicate, 0),
        ] {
            let unknown = match unknown {
                0 => String::new(),
                unknown => format!("  ({unknown} not judged)"),
            };
            let _ = writeln!(text, "{:13}  {}{unknown}", kind.name(), self.count(kind));
        }
        if self.count(Kind::Suspect) > 0 {
            let suspects = self.count(Kind::Suspect);
            let _ = writeln!(
                text,
                "suspect        {suspects}, by the times in their ids alone"
            );
        }
        text
    }

    fn line(&self, finding: &Finding) -> String {
        let message = finding.message;
        let id = finding
            .id
            .map(|id| format!(", id {id}"))
            .unwrap_or_default();
        let at = |at: Option<(i32, i64)>| {
            at.map_or_else(String::new, |(partition, offset)| {
                format!("/{partition}@{offset}")
            })
        };
        let topic = show::text(self.topic(finding));
        let other = at(finding.other);
        let why = match finding.kind {
            Kind::Lost => "was delivered, and is not there".to_owned(),
            Kind::Phantom => "is in no table".to_owned(),
            Kind::Duplicate => format!("is already at {topic}{other}"),
            Kind::Reordered => format!("comes before {topic}{other}, which was written earlier"),
            Kind::Suspect => format!("comes before {topic}{other}, whose id is older"),
        };
        format!(
            "{:10} {topic}{}  {message}{id}: {why}",
            finding.kind.name(),
            at(finding.at)
        )
    }

    fn topic(&self, finding: &Finding) -> &str {
        let name = self.names.get(usize::from(finding.topic));
        name.map_or("?", String::as_str)
    }

    fn json(&self) -> Result<String, Failure> {
        #[derive(Serialize)]
        struct Line<'r> {
            finding: &'static str,
            message_id: String,
            id: Option<i64>,
            topic: &'r str,
            partition: Option<i32>,
            offset: Option<i64>,
            other_partition: Option<i32>,
            other_offset: Option<i64>,
        }

        #[derive(Serialize)]
        struct Summary<'r> {
            summary: Counts<'r>,
        }

        #[derive(Serialize)]
        struct Counts<'r> {
            topics: &'r [String],
            records: u64,
            foreign: u64,
            tables: tables::Counts,
            lost: u64,
            phantom: u64,
            reordered: u64,
            duplicate: u64,
            suspect: u64,
            lost_not_judged: u64,
            phantom_not_judged: u64,
            order_not_judged: u64,
            faults: u64,
            notes: &'r [String],
        }

        let mut text = String::new();
        for finding in self.findings.values().flatten() {
            text += &show::json(&Line {
                finding: finding.kind.name(),
                message_id: finding.message.to_string(),
                id: finding.id,
                topic: self.topic(finding),
                partition: finding.at.map(|at| at.0),
                offset: finding.at.map(|at| at.1),
                other_partition: finding.other.map(|at| at.0),
                other_offset: finding.other.map(|at| at.1),
            })?;
        }
        text += &show::json(&Summary {
            summary: Counts {
                topics: &self.names,
                records: self.topics.records,
                foreign: self.topics.foreign,
                tables: self.tables,
                lost: self.count(Kind::Lost),
                phantom: self.count(Kind::Phantom),
                reordered: self.count(Kind::Reordered),
                duplicate: self.count(Kind::Duplicate),
                suspect: self.count(Kind::Suspect),
                lost_not_judged: self.not_judged.lost,
                phantom_not_judged: self.not_judged.phantom,
                order_not_judged: self.not_judged.order,
                faults: self.faults(),
                notes: &self.notes,
            },
        })?;
        Ok(text)
    }
}

fn time(millis: i64) -> String {
    let time = Timestamp::from_millisecond(millis);
    time.map_or_else(|_| "?".to_owned(), |time| format!("{time:.0}"))
}
