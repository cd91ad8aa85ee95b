//! `outbox send`: a message from the shell.

use std::fs;
use std::io::Read as _;

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use outbox::store::Store as _;
use outbox::{Message, OutboxEvent as _};

use crate::failure::Failure;
use crate::settings::DatabaseFlags;
use crate::{Database, show};

/// Write one message
///
/// It is written in a transaction of its own, and checked as `publish` checks it. Its message id is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The topic
    #[arg(long)]
    topic: String,

    /// The key: messages of the same topic and key stay in order
    #[arg(long)]
    key: Option<String>,

    /// The partition, instead of the one that the key leads to
    #[arg(long, value_name = "NUMBER")]
    partition: Option<i32>,

    /// A header; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,

    /// The event type, sent as the header outbox-type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,

    /// The payload: as it stands here, of a file (@FILE), or of stdin (-)
    #[arg(
        long,
        value_name = "TEXT|@FILE|-",
        required_unless_present = "tombstone"
    )]
    payload: Option<String>,

    /// Send no payload, which deletes the key from a compacted topic
    #[arg(long, conflicts_with = "payload")]
    tombstone: bool,

    #[command(flatten)]
    database: DatabaseFlags,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let database = Database::of(&args.database)?;
    let message = message(args)?;
    // It says what is to be done if there are no tables.
    database.store().build()?.check().await?;
    let connection = AsyncPgConnection::try_from(database.connect().await?);
    let mut connection = connection
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let id = connection
        .transaction(async |c| message.publish(c).await)
        .await
        .map_err(failure)?;
    show::print(&format!("{id}\n"))
}

fn message(args: &Args) -> Result<Message, Failure> {
    let mut message = Message::new(&args.topic);
    if let Some(key) = &args.key {
        message = message.with_key(key.as_str());
    }
    if let Some(partition) = args.partition {
        message = message.with_partition(partition);
    }
    for (name, value) in &args.header {
        message = message.with_header(name, value);
    }
    if let Some(event_type) = &args.event_type {
        message = message.with_event_type(event_type);
    }
    if let Some(payload) = &args.payload {
        message = message.with_payload(read(payload)?);
    }
    Ok(message)
}

fn read(payload: &str) -> Result<Vec<u8>, Failure> {
    let unreadable = |what: &str, error| Failure::Usage(format!("{what} can't be read: {error}"));
    if payload == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        return read.map(|_| bytes).map_err(|e| unreadable("stdin", e));
    }
    match payload.strip_prefix('@') {
        Some(path) => fs::read(path).map_err(|e| unreadable(path, e)),
        None => Ok(payload.into()),
    }
}

fn failure(error: outbox::Error) -> Failure {
    match error.is_invalid_event() {
        true => Failure::Usage(error.to_string()),
        false => Failure::Failed(error.to_string()),
    }
}
