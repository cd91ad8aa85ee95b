//! The tables on PostgreSQL.

diesel::table! {
    /// The messages that wait to be delivered.
    outbox (lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> SmallInt,
        /// By which consumers recognise a message that comes twice.
        message_id -> Uuid,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Json>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Timestamptz,
    }
}

diesel::table! {
    /// The lanes, and the runners that hold them.
    outbox_lanes (lane) {
        /// The lane.
        lane -> SmallInt,
        /// The runner that holds it.
        owner -> Nullable<Uuid>,
        /// The fencing token: higher with every change of owner.
        epoch -> BigInt,
        /// When the lease ends.
        expires_at -> Timestamptz,
        /// For exactly-once delivery: the number of the batch that was sent last.
        batch -> BigInt,
        /// For exactly-once delivery: the ids of the messages of that batch.
        manifest -> Array<BigInt>,
        /// For exactly-once delivery: whether these are parked.
        manifest_parked -> Bool,
        /// Which outbox it is: the same in all rows.
        outbox_id -> Uuid,
    }
}

diesel::table! {
    /// The runners that are alive.
    outbox_runners (runner) {
        /// The runner.
        runner -> Uuid,
        /// What people call it.
        name -> Text,
        /// When it was started.
        started_at -> Timestamptz,
        /// Until when it counts as alive.
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    /// Until when the runner of a lane sleeps.
    outbox_doorbell (lane) {
        /// The lane.
        lane -> SmallInt,
        /// Until when it sleeps.
        asleep_until -> Timestamptz,
    }
}

diesel::table! {
    /// The messages of keys that are set aside because one was refused.
    outbox_parked (lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> SmallInt,
        /// By which consumers recognise a message that comes twice.
        message_id -> Uuid,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Json>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Timestamptz,
        /// When it was parked.
        parked_at -> Timestamptz,
        /// How often it was tried. 0 if it waits behind an earlier message of its key.
        attempts -> Integer,
        /// Why it was refused.
        error -> Nullable<Text>,
        /// When it is tried again. None waits for an operator, or behind an earlier message.
        next_attempt_at -> Nullable<Timestamptz>,
        /// What is parked and released together.
        ordering_key -> BigInt,
    }
}

diesel::table! {
    /// The topics that an operator has paused; `*` is everything.
    outbox_paused (topic) {
        /// The topic, or `*`.
        topic -> Text,
        /// Since when.
        paused_at -> Timestamptz,
    }
}

diesel::table! {
    /// Delivered messages, where the runner keeps them.
    outbox_archive (delivered_at, lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> SmallInt,
        /// By which consumers recognise a message that comes twice.
        message_id -> Uuid,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Json>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Timestamptz,
        /// When it was delivered.
        delivered_at -> Timestamptz,
    }
}

diesel::table! {
    /// Messages that were given up.
    outbox_dead_letters (lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> SmallInt,
        /// By which consumers recognise a message that comes twice.
        message_id -> Uuid,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Json>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Timestamptz,
        /// When it was given up.
        refused_at -> Timestamptz,
        /// Why it was refused.
        error -> Text,
    }
}

diesel::table! {
    /// What operators did.
    outbox_audit (seq) {
        /// The number of the entry.
        seq -> BigInt,
        /// When it was done.
        done_at -> Timestamptz,
        /// What was done: `retry`, `skip`, `pause` or `resume`.
        action -> Text,
        /// Who says to have done it.
        operator -> Text,
        /// The role of the database that did it.
        role -> Text,
        /// Why.
        reason -> Nullable<Text>,
        /// Its lane.
        lane -> Nullable<SmallInt>,
        /// The message, if it was about one.
        id -> Nullable<BigInt>,
        /// By which consumers recognise a message that comes twice.
        message_id -> Nullable<Uuid>,
        /// The topic, or `*`.
        topic -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    outbox,
    outbox_lanes,
    outbox_runners,
    outbox_doorbell,
    outbox_parked,
    outbox_paused,
    outbox_archive,
    outbox_dead_letters,
    outbox_audit,
);
