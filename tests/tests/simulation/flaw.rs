//! What may be wrong with the store, the sink or the broker, so that the simulation has to find it.

/// One flaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The store parks late, again and again. That is none: it must be borne.
    ParksLate,
    /// The store lets a runner change messages of lanes that it lost.
    HasNoFence,
    /// The store lets several runners own a lane.
    GrantsLanesTwice,
    /// The store ends leases before the time that it granted.
    EndsLeasesEarly,
    /// The store passes over ids below those that it has read.
    ReadsWithACursor,
    SettlesTheNextOneToo,
    /// The store takes no note of what is about to be committed.
    NotesNothing,
    /// The sink sends messages of a batch in another order.
    Reorders,
    /// The sink tells that messages were delivered which were not.
    Lies,
    /// The sink sends what follows a message that it could not send.
    SkipsNothing,
    /// The broker lets those commit who were taken over from.
    FencesNobody,
    /// The broker forgets which batch was committed last.
    ForgetsTheNumber,
}
