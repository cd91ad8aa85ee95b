//! Nothing passes a message that was not delivered.

use super::*;

/// A message that fails among others, and what became of each.
struct Failed {
    /// Of the failing message's key, before it.
    before: Message,
    failing: Message,
    /// Of its key, behind it: in its batch, and in a batch that was sent before its outcome was awaited.
    behind: [Message; 2],
    /// Of another key of the same topic.
    beside: Message,
    /// Of another key of the fixture's topic.
    elsewhere: Message,
    outcomes: [Outcome; 6],
}

impl Failed {
    /// `None` if the fixture has no message that fails like this.
    async fn send<F: SinkFixture>(
        sender: &Sender<'_, F>,
        kind: SinkErrorKind,
    ) -> Result<Option<Self>, Broken> {
        let Some(failing) = sender.fixture.failing(kind) else {
            return Ok(None);
        };
        let of_key = |payload: &str| Message {
            partition: failing.partition,
            key: failing.key.clone(),
            ..Message::new(failing.topic()).with_payload(payload)
        };
        let before = of_key("before");
        let behind = [of_key("behind"), of_key("far behind")];
        let beside = Message::new(failing.topic()).with_key("contract-beside");
        let elsewhere = sender.message("contract-elsewhere", "elsewhere");
        let first = [
            before.clone(),
            failing.clone(),
            behind[0].clone(),
            beside.clone(),
        ];
        let second = [behind[1].clone(), elsewhere.clone()];
        let first_delivery = sender.send(&first).await?;
        let second_delivery = sender.send(&second).await?;
        let first = sender.outcomes(first_delivery, 4).await?;
        let second = sender.outcomes(second_delivery, 2).await?;
        let Ok(outcomes) = <[Outcome; 6]>::try_from([first, second].concat()) else {
            return Err(Broken("six outcomes were told".into()));
        };
        let told = outcomes[1].as_ref().map_err(|error| error.kind());
        // An unavailable topic can fail with the message before.
        let passes = kind == SinkErrorKind::TopicUnavailable && outcomes[0].is_err();
        require!(
            told == Err(kind) || passes && told == Err(SinkErrorKind::Skipped),
            "the message that is to fail as {kind:?} became {:?}",
            outcomes[1]
        );
        Ok(Some(Self {
            before,
            failing,
            behind,
            beside,
            elsewhere,
            outcomes,
        }))
    }

    fn all(&self) -> [&Message; 6] {
        let [behind, far_behind] = &self.behind;
        [
            &self.before,
            &self.failing,
            behind,
            &self.beside,
            far_behind,
            &self.elsewhere,
        ]
    }

    /// What was delivered according to the outcomes.
    fn delivered(&self) -> impl Iterator<Item = &Message> {
        let all = self.all().into_iter().zip(&self.outcomes);
        all.filter(|(_, outcome)| outcome.is_ok())
            .map(|(message, _)| message)
    }

    fn outcome_behind(&self) -> [&Outcome; 2] {
        [&self.outcomes[2], &self.outcomes[4]]
    }

    fn require_nothing_passed(&self) -> Case {
        for outcome in self.outcome_behind() {
            require!(
                outcome.is_err(),
                "a later message of the key was sent before the runner knew of the failure"
            );
        }
        Ok(())
    }

    /// What was not sent arrives in its place when it is sent again.
    async fn send_again<F: SinkFixture>(self, sender: &Sender<'_, F>) -> Case {
        sender.deliver(&self.behind).await?;
        let mut expected: Vec<_> = self.delivered().cloned().collect();
        expected.retain(|message| !self.behind.contains(message));
        expected.extend(self.behind.iter().cloned());
        sender.require_arrived(&expected).await
    }
}

pub(super) async fn nothing_passes_a_message_while_the_sink_is_unavailable<F: SinkFixture>(
    f: &F,
) -> Case {
    let sender = Sender::new(f);
    let Some(failed) = Failed::send(&sender, SinkErrorKind::Unavailable).await? else {
        return Ok(());
    };
    failed.require_nothing_passed()?;
    failed.send_again(&sender).await
}

pub(super) async fn nothing_passes_a_message_of_an_unavailable_topic<F: SinkFixture>(
    f: &F,
) -> Case {
    let sender = Sender::new(f);
    let Some(failed) = Failed::send(&sender, SinkErrorKind::TopicUnavailable).await? else {
        return Ok(());
    };
    failed.require_nothing_passed()?;
    let arrived = f.arrived().await;
    let passed = failed
        .behind
        .iter()
        .find(|m| arrived.iter().any(|a| a.id() == m.id()));
    require!(
        passed.is_none(),
        "a message passed it, and was told not to have"
    );
    Ok(())
}

pub(super) async fn other_topics_go_on_without_an_unavailable_one<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    let Some(failed) = Failed::send(&sender, SinkErrorKind::TopicUnavailable).await? else {
        return Ok(());
    };
    require_delivered(
        std::slice::from_ref(&failed.elsewhere),
        &failed.outcomes[5..],
    )
}

pub(super) async fn other_keys_go_on_without_a_rejected_message<F: SinkFixture>(f: &F) -> Case {
    let sender = Sender::new(f);
    let Some(failed) = Failed::send(&sender, SinkErrorKind::Rejected).await? else {
        return Ok(());
    };
    require_delivered(
        &[failed.beside.clone(), failed.elsewhere.clone()],
        &[failed.outcomes[3].clone(), failed.outcomes[5].clone()],
    )
}

/// What the sink sent before it knew of the refusal has passed it. But when one was held back, so
/// must be all that follow.
pub(super) async fn nothing_passes_what_was_skipped_behind_a_rejected_message<F: SinkFixture>(
    f: &F,
) -> Case {
    let sender = Sender::new(f);
    let Some(failed) = Failed::send(&sender, SinkErrorKind::Rejected).await? else {
        return Ok(());
    };
    let delivered: Vec<_> = failed.delivered().cloned().collect();
    sender.require_arrived(&delivered).await?;
    if failed.outcome_behind()[0].is_err() {
        failed.require_nothing_passed()?;
        return failed.send_again(&sender).await;
    }
    Ok(())
}
