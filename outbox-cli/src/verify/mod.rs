//! `outbox verify`: compares topics with the tables.

mod judge;
mod report;
mod spill;
mod tables;
mod topics;

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use tokio::runtime::Handle;

use self::judge::{Archived, Gathered, Limits};
use self::report::Report;
use self::topics::Topics;
use crate::failure::Failure;
use crate::reader::{self, Reader, Start};
use crate::settings::{COMPLETION, DEAD_LETTER_TOPIC, DELIVERY, Settings, VerifierFlags, one_of};
use crate::tail::since;
use crate::{Database, brokers};

/// How often to tell how far it is.
const TELL: Duration = Duration::from_secs(5);

/// Compare topics with the tables: what is lost, invented, repeated or out of order
///
/// It finds messages that are lost (the archive says that they were delivered, and they are not in the topic),
/// phantoms (in the topic, and in no table), duplicates, and messages of one key that are not in the order in
/// which they were written. It changes nothing, and may be run while everything runs. The exit code is 1 if
/// there is a fault.
///
/// What was delivered stands in the archive, with `outbox run --completion archive`. Without one, only
/// duplicates can be known, and of the order only what the times in the ids suggest, which writers' clocks
/// made. What the topic's retention or compaction took away, what is older than the archive, and what a
/// transaction hides that is open, is counted as not judged.
///
/// Duplicates are a fault with `--delivery exactly-once` only. A message that a broker refused late, and
/// that others of its key passed meanwhile, counts as reordered.
///
/// It needs memory for a 64th of the messages at a time, about 100 bytes each (or, if that is more, for the
/// messages of the busiest key, 50 bytes each), and 150 bytes of temporary files a message.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what was written this long ago at most (15m, 2h, 7d), or since this time
    /// (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
    since: Option<i64>,

    /// Show so many findings of each kind; all are counted
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    findings: usize,

    /// Print lines of JSON: one a finding, and then a summary
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: VerifierFlags,
}

/// How the runners work, as far as it matters here.
struct Runners {
    exactly_once: bool,
    /// Whether they archive, if that was said.
    archive: Option<bool>,
    dead_letter_topic: Option<String>,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let mut settings = Settings::gather(&args.settings);
    let database = Database::from_settings(&mut settings);
    let (client, topics) = (
        brokers::client(&mut settings),
        reader::topics(&mut settings),
    );
    let delivery = [("at-least-once", false), ("exactly-once", true)];
    let completion = [("delete", false), ("archive", true)];
    let runners = Runners {
        exactly_once: settings
            .value(&DELIVERY, |text| one_of(&delivery, text))
            .unwrap_or(false),
        archive: settings.value(&COMPLETION, |text| one_of(&completion, text)),
        dead_letter_topic: settings.value(&DEAD_LETTER_TOPIC, |text| Ok(text.to_owned())),
    };
    let given = database.zip(client).zip(topics);
    let ((database, client), mut topics) = settings.verdict(given)?;
    topics.sort_unstable();
    topics.dedup();
    // It says what is to be done if there are no tables.
    outbox::store::Store::check(&database.store().build()?).await?;
    let (start, findings) = (args.since, args.findings);
    // Files and librdkafka make the thread wait that uses them.
    let (runtime, json) = (Handle::current(), args.json);
    let compared = tokio::task::spawn_blocking(move || {
        let comparison = Comparison {
            runtime,
            database,
            client,
            topics,
            since: start,
            runners,
            findings,
        };
        comparison.run()
    });
    let report = compared
        .await
        .unwrap_or_else(|error| Err(Failure::Failed(error.to_string())))?;
    report.show(json)
}

struct Comparison {
    runtime: Handle,
    database: Database,
    client: ClientConfig,
    topics: Vec<String>,
    since: Option<i64>,
    runners: Runners,
    findings: usize,
}

impl Comparison {
    fn run(&self) -> Result<Report, Failure> {
        let mut progress = Progress(Instant::now());
        let mut report = Report::new(&self.topics, self.runners.exactly_once, self.findings);
        let mut gathered = Gathered::new().map_err(unwritable)?;

        // First the clock, then the topics, then the tables: whatever was delivered by then is in the topics
        // when they are read, and whatever is in them is in a table when these are.
        let read_from = self.runtime.block_on(tables::now(&self.database))?;
        let mut names = self.topics.clone();
        let letters = self.runners.dead_letter_topic.iter();
        names.extend(
            letters
                .filter(|topic| !self.topics.contains(topic))
                .cloned(),
        );
        let reader = Reader::connect(&self.client, &names)?;
        let topics = Topics {
            reader: &reader,
            names: &self.topics,
            start: self.since.map_or(Start::Beginning, Start::Time),
        };
        let mut known = Vec::new();
        for name in &names {
            let mut of_topic =
                topics.read(name, &mut gathered, &mut report.topics, &mut progress)?;
            if self.topics.contains(name) {
                match topics::is_compacted(&self.runtime, &self.client, name) {
                    Ok(compacted) => of_topic.is_compacted = compacted,
                    Err(why) => report.note(format!(
                        "whether the topic {name} is compacted can't be asked ({why}): if so, what was \
                         compacted away counts as lost"
                    )),
                }
                report.explain_topic(name, &of_topic);
                known.push(of_topic);
            }
        }
        let (counts, archive) = self.runtime.block_on(tables::read(
            &self.database,
            &self.topics,
            self.since,
            &mut gathered,
            &mut progress,
        ))?;
        report.tables = counts;
        let archive = archive.filter(|_| self.runners.archive != Some(false));
        let archive = archive.map(|(from, to)| Archived {
            from,
            to,
            goes_on: self.runners.archive == Some(true),
        });
        report.explain_archive(archive, self.runners.archive);
        let limits = Limits {
            topics: known,
            archive,
            read_from,
        };
        let unknown = gathered.judge(&limits, |finding| report.found(finding));
        report.not_judged = unknown.map_err(unwritable)?;
        Ok(report)
    }
}

/// Tells how far it is now and then, on stderr.
struct Progress(Instant);

impl Progress {
    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.0.elapsed() > TELL {
            eprintln!("{}", text());
            self.0 = Instant::now();
        }
    }
}

fn unwritable(error: std::io::Error) -> Failure {
    let folder = std::env::temp_dir();
    Failure::Failed(format!(
        "temporary files in {} fail: {error}; TMPDIR names another folder",
        folder.display()
    ))
}
