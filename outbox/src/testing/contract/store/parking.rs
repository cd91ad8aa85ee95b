//! Refused messages are set aside with their keys.

use super::*;

pub(super) async fn parked_messages_are_not_read<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner
        .insert(&[keyed("a", 3), keyed("b", 2)].concat())
        .await?;
    owner
        .park(&[refused(all[0].position), behind(all[1].position)])
        .await?;
    let left = owner.waiting().await?.into_iter().sorted();
    require!(
        left == all[2..].iter().cloned().sorted(),
        "{:?} were parked, and {:?} is read",
        positions(&all[..2]),
        positions(&left)
    );
    Ok(())
}

pub(super) async fn parked_keys_are_told_by_lane<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let written = [
        Message::new("t").with_key("a"),
        Message::new("t").with_key("a"),
        Message::new("t").with_key([0, 0xff]),
        Message::new("t").with_key(""),
        Message::new("t").with_partition(1).with_key("a"),
        Message::new("t").with_partition(1).with_key("b"),
        Message::new("u").with_key("a"),
        // Without a key; also of these it must be known that they are parked.
        Message::new("t"),
    ];
    let all = owner.insert(&written).await?;
    let parkings: Vec<_> = all.iter().map(|stored| refused(stored.position)).collect();
    owner.park(&parkings).await?;
    for lane in owner.lanes() {
        let mut told = f.store().parked_keys(&[lane]).await?;
        let mut expected = Vec::<ParkedKey>::new();
        for stored in all.iter().filter(|stored| stored.position.lane == lane) {
            let message = &stored.message;
            let same = |key: &ParkedKey| key.ordering_key() == message.ordering_key();
            if !expected.iter().any(same) {
                expected.push(ParkedKey {
                    lane,
                    topic: message.topic().to_owned(),
                    partition: message.partition(),
                    key: message.key().map(<[u8]>::to_vec),
                });
            }
        }
        sort_keys(&mut told);
        sort_keys(&mut expected);
        require!(
            told == expected,
            "of lane {lane} {told:?} was told instead of {expected:?}"
        );
    }
    let told = f.store().parked_keys(&[]).await?;
    require!(told.is_empty(), "of no lanes, {told:?} was told");
    Ok(())
}

pub(super) async fn the_first_of_a_key_is_due_alone<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner
        .insert(&[keyed("a", 3), keyed("b", 2), scattered(2)].concat())
        .await?;
    let parkings = [
        refused(all[0].position),
        behind(all[1].position),
        behind(all[2].position),
        refused(all[3].position),
        behind(all[4].position),
        refused(all[5].position),
        refused(all[6].position),
    ];
    owner.park(&parkings).await?;
    let due = owner.due().await?;
    let expected = [0, 3, 5, 6].map(|n: usize| DueMessage {
        stored: all[n].clone(),
        attempts: 1,
    });
    let mut expected = expected.to_vec();
    expected.sort_by_key(|due| due.stored.position);
    require!(due == expected, "due are {due:?} instead of {expected:?}");
    // Only in the lanes that are asked for.
    for lane in owner.lanes() {
        let due = f
            .store()
            .due(&[lane], &TopicFilter::default(), 100, usize::MAX)
            .await?;
        let expected = expected
            .iter()
            .filter(|due| due.stored.position.lane == lane);
        require!(
            due.len() == expected.count() && due.iter().all(|d| d.stored.position.lane == lane),
            "in lane {lane} are due {due:?}"
        );
    }
    require!(
        f.store()
            .due(&[], &TopicFilter::default(), 100, usize::MAX)
            .await?
            .is_empty(),
        "something is due in no lane"
    );
    Ok(())
}

pub(super) async fn nothing_is_due_before_its_time<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&scattered(3)).await?;
    let retry_in = [Some(LONG), None, Some(SHORT)];
    let parking = |(stored, retry_in): (&StoredMessage, Option<Duration>)| Parking {
        position: stored.position,
        refusal: Some(refusal(2, retry_in)),
    };
    let parkings: Vec<_> = all.iter().zip(retry_in).map(parking).collect();
    owner.park(&parkings).await?;
    f.pass(AWHILE).await;
    let due = owner.due().await?;
    let expected = DueMessage {
        stored: all[2].clone(),
        attempts: 2,
    };
    require!(
        due == [expected],
        "one is due in {LONG:?}, one never, and one at {:?} now; {due:?} was told",
        all[2].position
    );
    Ok(())
}

pub(super) async fn no_more_are_due_than_asked_for<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&scattered(40)).await?;
    let parkings: Vec<_> = all.iter().map(|stored| refused(stored.position)).collect();
    owner.park(&parkings).await?;
    let due = f
        .store()
        .due(&owner.lanes(), &TopicFilter::default(), 5, usize::MAX)
        .await?;
    require!(due.len() == 5, "5 were asked for, and {} told", due.len());
    Ok(())
}

pub(super) async fn no_more_bytes_are_due_than_asked_for<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let large = |n: usize| {
        Message::new("t")
            .with_key(n.to_string())
            .with_payload(vec![0; 100])
    };
    let written: Vec<_> = (0..10).map(large).collect();
    let all = owner.insert(&written).await?;
    let parkings: Vec<_> = all.iter().map(|stored| refused(stored.position)).collect();
    owner.park(&parkings).await?;
    // Those before the fourth have more than 300 bytes, and the first comes whatever it has.
    for (max_bytes, expected) in [(300, 3), (1, 1)] {
        let (lanes, topics) = (owner.lanes(), TopicFilter::default());
        let due = f.store().due(&lanes, &topics, 100, max_bytes).await?;
        require!(
            due.len() == expected,
            "with {max_bytes} bytes, {expected} were asked for, and {} told",
            due.len()
        );
    }
    Ok(())
}

pub(super) async fn only_topics_that_are_asked_for_are_due<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let written = ["a", "b", "c"].map(|topic| Message::new(topic).with_key("k"));
    let all = owner.insert(&written).await?;
    let parkings: Vec<_> = all.iter().map(|stored| refused(stored.position)).collect();
    owner.park(&parkings).await?;
    let filter = TopicFilter {
        only: Some(vec!["a".into(), "b".into()]),
        except: vec!["a".into()],
    };
    let due = f
        .store()
        .due(&owner.lanes(), &filter, 100, usize::MAX)
        .await?;
    let topics: Vec<_> = due.iter().map(|due| due.stored.message.topic()).collect();
    require!(topics == ["b"], "of `b` alone, {topics:?} are due");
    Ok(())
}

/// What was before it was taken away by an operator.
pub(super) async fn a_first_message_that_was_never_tried_is_due<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 2)).await?;
    owner
        .park(&[behind(all[0].position), behind(all[1].position)])
        .await?;
    let due = owner.due().await?;
    let expected = DueMessage {
        stored: all[0].clone(),
        attempts: 0,
    };
    require!(due == [expected], "due is {due:?}");
    Ok(())
}

pub(super) async fn a_message_refused_again_waits_anew<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 2)).await?;
    let first = all[0].position;
    owner
        .park(&[refused(first), behind(all[1].position)])
        .await?;
    for (retry_in, is_due) in [
        (Some(Duration::ZERO), true),
        (Some(LONG), false),
        (None, false),
    ] {
        owner.refuse_again(first, &refusal(3, retry_in)).await?;
        let due = owner.due().await?;
        let expected = DueMessage {
            stored: all[0].clone(),
            attempts: 3,
        };
        let expected = if is_due { vec![expected] } else { vec![] };
        require!(
            due == expected,
            "refused for the third time, to be tried in {retry_in:?}: due is {due:?}"
        );
        require!(
            owner.waiting().await?.is_empty(),
            "what is parked behind it is read"
        );
    }
    Ok(())
}

/// Their ids are lower than those of what was read meanwhile: there must be no cursor.
pub(super) async fn unparking_restores_the_key_in_its_old_places<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 4)).await?;
    let parkings = [
        refused(all[0].position),
        behind(all[1].position),
        behind(all[2].position),
        behind(all[3].position),
    ];
    owner.park(&parkings).await?;
    // Of the same key, and thereby of the same lane.
    let later = owner.insert(&keyed("k", 2)).await?;
    owner.settle(&[later[0].position], false).await?;
    owner.unpark(all[0].position, false).await?;
    let contents = owner.contents().await?;
    let expected = [&all[1..], &later[1..]].concat();
    require!(
        contents.waiting == expected,
        "{:?} is read instead of {:?}",
        positions(&contents.waiting),
        positions(&expected)
    );
    require!(
        contents.keys.is_empty() && contents.due.is_empty(),
        "something is still parked: {contents:?}"
    );
    Ok(())
}

/// So that, if it stops in between, what is tried next of the key is the right one.
pub(super) async fn unparking_goes_from_the_last_to_the_first<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 5)).await?;
    let mut parkings = vec![refused(all[0].position)];
    parkings.extend(all[1..].iter().map(|stored| behind(stored.position)));
    owner.park(&parkings).await?;
    for (waiting, more) in [(&all[3..], true), (&all[1..], true), (&all[1..], false)] {
        let contents = owner.contents().await?;
        require!(
            contents.keys.len() == 1 && contents.due[0].stored == all[0],
            "before the last portion, the first message is not the one that is tried: {contents:?}"
        );
        let unpark = owner
            .store
            .unpark(&owner.runner, &owner.leases, all[0].position, false, 2);
        let unparked = unpark.await?;
        owner.require_all(&unparked.leases)?;
        let back = owner.waiting().await?.into_iter().sorted();
        require!(
            back == waiting && unparked.more == more,
            "two more were to be moved back, up to {:?}: {:?} are there, and it was told that {} left",
            positions(waiting),
            positions(&back),
            if unparked.more { "some are" } else { "none is" }
        );
    }
    let contents = owner.contents().await?;
    require!(
        contents.keys.is_empty() && contents.due.is_empty(),
        "something is still parked: {contents:?}"
    );
    Ok(())
}

pub(super) async fn unparking_concerns_one_key<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let in_partition = |key: &str| Message::new("t").with_partition(1).with_key(key);
    let pairs = [
        [
            Message::new("t").with_key("a"),
            Message::new("t").with_key("a"),
        ],
        [
            Message::new("u").with_key("a"),
            Message::new("u").with_key("a"),
        ],
        [
            Message::new("t").with_key("1"),
            Message::new("t").with_key("1"),
        ],
        [in_partition("a"), in_partition("b")],
    ];
    let mut all = owner.insert(&pairs.concat()).await?;
    let parking = |(n, stored): (usize, &StoredMessage)| match n % 2 {
        0 => refused(stored.position),
        _ => behind(stored.position),
    };
    let parkings: Vec<_> = all.iter().enumerate().map(parking).collect();
    owner.park(&parkings).await?;
    // Of no key: each is alone.
    let alone = owner.insert(&scattered(2)).await?;
    let parkings: Vec<_> = alone
        .iter()
        .map(|stored| refused(stored.position))
        .collect();
    owner.park(&parkings).await?;
    owner.unpark(alone[0].position, false).await?;
    let waiting = owner.waiting().await?;
    require!(
        waiting.is_empty(),
        "a message without a key took {:?} along",
        positions(&waiting)
    );
    while let [first, second, ..] = &all[..] {
        owner.unpark(first.position, false).await?;
        let waiting = owner.waiting().await?;
        require!(
            waiting == [second.clone()],
            "with {:?} came back {:?}",
            first.message.ordering_key(),
            messages(&waiting)
        );
        owner.settle(&[second.position], false).await?;
        all.drain(..2);
    }
    Ok(())
}

/// As after an answer that did not come.
pub(super) async fn parking_and_unparking_twice_do_no_harm<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 3)).await?;
    let parkings = [refused(all[0].position), behind(all[1].position)];
    owner.park(&parkings).await?;
    let parked = owner.contents().await?;
    owner.park(&parkings).await?;
    let again = owner.contents().await?;
    require!(
        again == parked,
        "parking twice: {parked:?} became {again:?}"
    );

    owner.unpark(all[0].position, false).await?;
    let restored = owner.contents().await?;
    owner.unpark(all[0].position, false).await?;
    owner
        .refuse_again(all[0].position, &refusal(2, Some(Duration::ZERO)))
        .await?;
    let again = owner.contents().await?;
    require!(
        again == restored,
        "a message that is parked no more: {restored:?} became {again:?}"
    );
    Ok(())
}
