DROP FUNCTION outbox_note_batches, outbox_refuse_again, outbox_unpark, outbox_parked_firsts,
    outbox_bury, outbox_park, outbox_archive_delivered, outbox_settle, outbox_horizon, outbox_read_few, outbox_read,
    outbox_leave, outbox_release, outbox_lease, outbox_ring;
DROP TABLE outbox_audit;
DROP TABLE outbox_paused;
DROP TABLE outbox_dead_letters;
DROP TABLE outbox_archive;
DROP TABLE outbox_parked;
DROP TABLE outbox_doorbell;
DROP TABLE outbox_runners;
DROP TABLE outbox_lanes;
DROP TABLE outbox;
DROP FUNCTION outbox_ordering_key;
