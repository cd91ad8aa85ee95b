//! How much of a lane one read takes.

/// The limit in bytes, and what was taken.
#[derive(Debug)]
pub(super) struct Room {
    limit: usize,
    taken: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: 0 }
    }

    /// Takes a message of so many bytes, unless those before it have reached the limit. The first one is taken
    /// however large it is.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let has_room = self.taken == 0 || self.taken < self.limit;
        if has_room {
            self.taken += bytes;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_the_limit_is_the_last() {
        let mut room = Room::new(10);
        let taken = [4, 0, 5, 7, 0, 1].map(|bytes| room.take(bytes));
        assert_eq!(taken, [true, true, true, true, false, false]);
    }

    #[test]
    fn the_first_one_has_room_however_large() {
        let mut room = Room::new(0);
        assert_eq!(
            [0, 100, 0].map(|bytes| room.take(bytes)),
            [true, true, false]
        );
    }
}
