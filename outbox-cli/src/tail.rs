//! `outbox tail`: what is delivered, while it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::reader::{self, Next, Reader, Start};
use crate::settings::{BrokerFlags, Settings, duration};
use crate::{brokers, show};

/// How often to look for partitions that were added.
const LOOK: Duration = Duration::from_secs(10);

/// How long a line that is being printed may take when it is to end.
const LAST_LINE: Duration = Duration::from_secs(1);

/// Show what is delivered, while it is
///
/// One line a message, as consumers see them, from now on and until Ctrl-C: the time, the topic, partition and
/// offset, the key, the event type, the message id and the size. Nothing is left behind at the brokers, neither
/// a consumer group nor offsets. What was sent in a transaction is shown once it is committed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Begin with the oldest messages that the topics still have
    #[arg(long, conflicts_with = "since")]
    from_beginning: bool,

    /// Begin with what arrived this long ago (15m, 2h, 7d), or at this time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
    since: Option<i64>,

    /// End after so many messages
    #[arg(long, value_name = "NUMBER", value_parser = crate::settings::number::<u64>)]
    count: Option<u64>,

    /// Only messages with this key
    #[arg(long)]
    key: Option<String>,

    /// Show the headers too
    #[arg(long)]
    headers: bool,

    /// Show the payload too
    #[arg(long)]
    payload: bool,

    /// Print lines of JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: BrokerFlags,
}

/// A time, or how long ago it was, in milliseconds since 1970.
pub(crate) fn since(text: &str) -> Result<i64, String> {
    if let Ok(ago) = duration(text) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp::now().as_millisecond().saturating_sub(ago).max(0));
    }
    let time: Result<Timestamp, _> = text.parse();
    time.map(|time| time.as_millisecond().max(0)).map_err(|_| {
        "a duration is expected, such as 15m, or a time, such as 2026-01-31T12:00:00Z".to_owned()
    })
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let mut settings = Settings::gather(&args.settings);
    let (client, topics) = (
        brokers::client(&mut settings),
        reader::topics(&mut settings),
    );
    let (client, topics) = settings.verdict(client.zip(topics))?;
    let what = What {
        start: match (args.from_beginning, args.since) {
            (true, _) => Start::Beginning,
            (false, Some(time)) => Start::Time(time),
            (false, None) => Start::End,
        },
        count: args.count,
        key: args.key.clone(),
        headers: args.headers,
        payload: args.payload,
        json: args.json,
    };
    let stop = Arc::new(AtomicBool::new(false));
    // librdkafka waits on the thread that asks.
    let mut following = {
        let stop = stop.clone();
        tokio::task::spawn_blocking(move || follow(&client, &topics, &what, &stop))
    };
    let signal = |kind| {
        signal(kind).map_err(|e| Failure::Failed(format!("signals can't be listened to: {e}")))
    };
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        followed = &mut following => {
            return followed.unwrap_or_else(|error| Err(Failure::Failed(error.to_string())));
        }
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.store(true, Ordering::Relaxed);
    // So that the last line is a whole one, unless nobody takes it.
    let _ = tokio::time::timeout(LAST_LINE, following).await;
    Ok(())
}

/// What is shown.
struct What {
    start: Start,
    count: Option<u64>,
    key: Option<String>,
    headers: bool,
    payload: bool,
    json: bool,
}

fn follow(
    client: &ClientConfig,
    topics: &[String],
    what: &What,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut reader = Reader::connect(client, topics)?;
    for topic in topics {
        reader.begin(topic, what.start)?;
    }
    eprintln!("following {}", topics.join(", "));
    let mut looked = Instant::now();
    let (mut shown, mut told) = (0, None);
    while !stop.load(Ordering::Relaxed) && what.count.is_none_or(|count| shown < count) {
        match reader.next()? {
            Next::Record(record) if what.wants(&record) => {
                show::print(&what.text(&record)?)?;
                shown += 1;
            }
            Next::Gone => reader.look_again()?,
            // It would show with the next message only, and there may be none for a long time.
            _ if show::is_unread() => return Err(Failure::Unread),
            Next::Record(_) | Next::End(_) | Next::Nothing => {}
        }
        // Whoever watches an outage wants to see it, once.
        let trouble = reader.trouble();
        if trouble != told {
            eprintln!("the brokers: {}", trouble.as_deref().unwrap_or_default());
            told = trouble;
        }
        if looked.elapsed() > LOOK {
            reader.look_again()?;
            looked = Instant::now();
        }
    }
    Ok(())
}

impl What {
    fn wants(&self, record: &BorrowedMessage<'_>) -> bool {
        let key = self.key.as_ref().map(String::as_bytes);
        key.is_none_or(|key| record.key() == Some(key))
    }

    fn text(&self, record: &BorrowedMessage<'_>) -> Result<String, Failure> {
        let line = Line {
            time: time(record),
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().map(show::Bytes),
            event_type: reader::header(record, reader::TYPE),
            id: reader::header(record, reader::ID),
            bytes: record.payload().map(<[u8]>::len),
            headers: self.headers.then(|| headers(record)),
            payload: self.payload.then(|| record.payload().map(show::Bytes)),
        };
        match self.json {
            true => show::json(&line),
            false => Ok(line.text()),
        }
    }
}

/// When a record came, as the brokers have it.
fn time(record: &BorrowedMessage<'_>) -> Option<String> {
    let time = Timestamp::from_millisecond(record.timestamp().to_millis()?).ok()?;
    Some(format!("{time:.3}"))
}

/// All headers but those that a line has anyway.
fn headers<'r>(record: &'r BorrowedMessage<'_>) -> Vec<Header<'r>> {
    let all = record
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter());
    all.filter(|header| ![reader::ID, reader::TYPE].contains(&header.key))
        .map(|header| Header {
            key: header.key,
            value: header.value.map(show::Bytes),
        })
        .collect()
}

#[derive(Serialize)]
struct Line<'r> {
    time: Option<String>,
    topic: &'r str,
    partition: i32,
    offset: i64,
    key: Option<show::Bytes<'r>>,
    #[serde(rename = "type")]
    event_type: Option<&'r str>,
    id: Option<&'r str>,
    /// The size of the payload; none of a tombstone.
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<Header<'r>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Option<show::Bytes<'r>>>,
}

#[derive(Serialize)]
struct Header<'r> {
    key: &'r str,
    value: Option<show::Bytes<'r>>,
}

impl Line<'_> {
    fn text(&self) -> String {
        let word = |text: Option<&str>| show::maybe(text.map(show::text));
        let bytes = |bytes: Option<show::Bytes<'_>>| show::maybe(bytes.map(|b| show::bytes(b.0)));
        let size = match self.bytes {
            Some(1) => "1 byte".to_owned(),
            Some(bytes) => format!("{bytes} bytes"),
            None => "tombstone".to_owned(),
        };
        let mut text = format!(
            "{}  {}/{}@{}  key={}  type={}  id={}  {size}\n",
            self.time.as_deref().unwrap_or("-"),
            show::text(self.topic),
            self.partition,
            self.offset,
            bytes(self.key),
            word(self.event_type),
            word(self.id),
        );
        for header in self.headers.iter().flatten() {
            text += &format!("    {}: {}\n", show::text(header.key), bytes(header.value));
        }
        if let Some(Some(payload)) = self.payload {
            text += &format!("    {}\n", show::bytes(payload.0));
        }
        text
    }
}
