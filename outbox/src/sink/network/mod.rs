//! What the sinks over a network have in common, other than Kafka's, whose library does it: the order of what is in
//! flight, and how they are configured.

pub(super) mod in_order;
pub(super) mod parameters;
pub(super) mod template;
pub(super) mod timeout;
