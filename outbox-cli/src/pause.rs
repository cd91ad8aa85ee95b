//! `outbox pause` and `outbox resume`.

use crate::by::By;
use crate::failure::Failure;
use crate::settings::DatabaseFlags;
use crate::{Database, show, status};

/// Writers are not concerned: their messages wait. Runners hear of it within about a second, and what is in
/// flight still arrives.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which topic
    #[arg(required_unless_present = "all")]
    topic: Option<String>,

    /// Everything. What was paused by its name stays so when everything is resumed
    #[arg(long, conflicts_with = "topic")]
    all: bool,

    /// Why; it is kept in the table outbox_audit
    #[arg(long, visible_alias = "because")]
    reason: Option<String>,

    #[command(flatten)]
    by: By,

    #[command(flatten)]
    database: DatabaseFlags,
}

impl Args {
    /// What is paused or resumed, for people.
    fn what(&self) -> String {
        let topic = self.topic.as_deref().map(show::text);
        topic.map_or_else(
            || "everything".to_owned(),
            |name| format!("the topic {name}"),
        )
    }

    fn note(&self) -> outbox::operator::Note {
        let note = self.by.note();
        match &self.reason {
            None => note,
            Some(reason) => note.because(reason),
        }
    }
}

pub(crate) async fn pause(args: &Args) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let news = operator.pause(args.topic.as_deref(), &args.note()).await?;
    let what = args.what();
    show::print(&match news {
        true => format!("{what} is paused\n"),
        false => format!("{what} was paused already\n"),
    })
}

pub(crate) async fn resume(args: &Args) -> Result<(), Failure> {
    let operator = Database::of(&args.database)?.operator()?;
    let news = operator.resume(args.topic.as_deref(), &args.note()).await?;
    let what = args.what();
    // What is paused in two ways still is, in the other one.
    let paused = operator.paused().await;
    let waits = matches!(&paused, Ok(paused) if paused.all && !args.all);
    show::print(&match (news, waits) {
        (false, _) => format!("{what} was not paused\n"),
        (true, false) => format!("{what} goes on\n"),
        (true, true) => format!("{what} is not paused by its name any more\n"),
    })?;
    let paused = paused?;
    let others: String = match args.all {
        true => paused.topics.iter().map(|t| status::is_paused(t)).collect(),
        false if waits => status::EVERYTHING_IS_PAUSED.to_owned(),
        false => String::new(),
    };
    show::print(&others)
}
