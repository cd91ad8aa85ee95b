//! `outbox pause` and `outbox resume`.

use crate::by::By;
use crate::failure::Failure;
use crate::settings::DatabaseFlags;
use crate::{Database, show};

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
    show::print(&match news {
        true => format!("{what} goes on\n"),
        false => format!("{what} was not paused\n"),
    })
}
