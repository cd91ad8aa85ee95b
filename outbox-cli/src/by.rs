//! Who does something.

use outbox::operator::Note;

#[derive(clap::Args)]
pub(crate) struct By {
    /// Who does it, for the table outbox_audit [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl By {
    pub(crate) fn note(&self) -> Note {
        let user = || {
            ["USER", "LOGNAME"]
                .into_iter()
                .find_map(|v| std::env::var(v).ok())
        };
        let by = self.by.clone().or_else(user);
        Note::by(by.unwrap_or_else(|| "unknown".to_owned()))
    }
}
