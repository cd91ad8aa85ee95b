//! How many messages to read of each lane.

/// What the last read of a lane was to bring, and brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    asked: usize,
    got: usize,
    /// How many bytes it was to bring before it ends, and brought.
    enough: usize,
    bytes: usize,
    /// The ids of the first and of the last message that came.
    first: i64,
    last: i64,
}

impl Look {
    /// So many messages are asked for, and no further one when those before it have so many bytes.
    pub(super) fn new(asked: usize, max_bytes: usize) -> Self {
        Self {
            asked,
            got: 0,
            enough: max_bytes,
            bytes: 0,
            first: i64::MAX,
            last: 0,
        }
    }

    /// This message came.
    pub(super) fn brought(&mut self, id: i64, bytes: usize) {
        self.got += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.first = self.first.min(id);
        self.last = self.last.max(id);
    }

    /// There is more.
    pub(super) fn is_deep(&self) -> bool {
        self.got >= self.asked || self.bytes >= self.enough
    }

    /// How many messages the lane has for each id.
    fn density(&self) -> f64 {
        let ids = self.last.saturating_sub(self.first).max(0) as f64 + 1.0;
        self.got as f64 / ids
    }
}

/// How much less or more than its even part a deep lane gets at most, before all parts are made to fit the total. One
/// may stay behind whatever it gets, as that of a key of which one message at a time is on its way.
const LEAST: f64 = 0.5;
const MOST: f64 = 2.0;

/// Shares `total` among the lanes. `looks` holds what is known of each.
///
/// A lane that was not full the last time gets a bit more than it brought then, at most its even part;
/// what that leaves is shared by the others. So one deep lane neither starves the others nor waits for
/// their unused parts. Each gets at least one, so where `total` is hardly more than the number of lanes, the sum may be
/// more.
///
/// Deep lanes get as much as takes each about as far as the others, not the same: messages leave about in the order in
/// which they were written, and a page of the table, which has messages of all lanes, is changed within a short time.
pub(super) fn share(total: usize, looks: &[Option<Look>]) -> Vec<usize> {
    let even = (total / looks.len().max(1)).max(1);
    let deep = |look: &Option<Look>| look.is_none_or(|look| look.is_deep());
    let little = |look: &Look| even.min(look.got + even / 4 + 1);
    let shallow = looks.iter().filter(|look| !deep(look)).flatten();
    let spare: usize = shallow.map(|look| even - little(look)).sum();
    let deep_lanes: Vec<_> = looks.iter().filter(|look| deep(look)).copied().collect();
    let mut parts = parts(even * deep_lanes.len() + spare, &deep_lanes).into_iter();
    let quota = |look: &Option<Look>| match look {
        Some(look) if !look.is_deep() => little(look),
        _ => parts.next().unwrap_or(even),
    };
    looks.iter().map(quota).collect()
}

/// Shares `total` among deep lanes.
fn parts(total: usize, lanes: &[Option<Look>]) -> Vec<usize> {
    let even = total as f64 / lanes.len().max(1) as f64;
    let Some(known) = lanes.iter().copied().collect::<Option<Vec<_>>>() else {
        return vec![even as usize; lanes.len()];
    };
    let density = known.iter().map(Look::density).sum::<f64>() / known.len() as f64;
    let mut ends: Vec<_> = known.iter().map(|look| look.last).collect();
    ends.sort_unstable();
    let middle = ends.get(ends.len() / 2).copied().unwrap_or_default();
    // As far as all of them go, and what it is behind the middle.
    let weight = |look: &Look| {
        let behind = look.density() * (middle - look.last) as f64;
        (look.density() / density + behind / even).clamp(LEAST, MOST)
    };
    let weights: f64 = known.iter().map(weight).sum();
    let part = |look: &Look| (total as f64 * weight(look) / weights) as usize;
    known.iter().map(|look| part(look).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(asked: usize, got: usize) -> Option<Look> {
        let mut look = Look::new(asked, 1_000);
        (0..got as i64).for_each(|id| look.brought(id, 1));
        Some(look)
    }

    #[test]
    fn at_first_all_lanes_get_the_same() {
        assert_eq!(share(1_000, &[None; 4]), [250; 4]);
    }

    #[test]
    fn a_deep_lane_gets_what_the_others_leave() {
        let quotas = share(1_600, &[look(100, 100), look(100, 0), look(100, 10)]);
        assert!(quotas[0] > 1_200, "{quotas:?}");
        assert!(quotas[1] >= 100 && quotas[2] > quotas[1], "{quotas:?}");
        assert!(quotas.iter().sum::<usize>() <= 1_600, "{quotas:?}");
    }

    #[test]
    fn a_lane_of_which_the_bytes_were_enough_is_deep() {
        let mut look = Look::new(100, 1_000);
        look.brought(1, 999);
        assert!(!look.is_deep());
        look.brought(2, 1);
        assert!(look.is_deep());
        let quotas = share(200, &[Some(look), self::look(100, 10)]);
        assert!(quotas[0] > 100, "{quotas:?}");
    }

    #[test]
    fn every_lane_gets_something() {
        assert_eq!(share(1, &[None; 3]), [1, 1, 1]);
        assert_eq!(share(1, &[look(1, 1); 3]), [1, 1, 1]);
        assert_eq!(share(3, &[look(1, 0); 3]), [1, 1, 1]);
        assert_eq!(share(10, &[]), [0; 0]);
    }

    /// Of these lanes one has a message for each third id, one for each sixth, and one is far behind.
    #[test]
    fn deep_lanes_keep_together() {
        let every = [3, 6, 6];
        let mut at = [100_000, 100_000, 40_000_i64];
        let mut looks = [None; 3];
        let (mut least, mut most) = (usize::MAX, 0);
        for _ in 0..200 {
            let quotas = share(600, &looks);
            assert!(quotas.iter().sum::<usize>() <= 600, "{quotas:?}");
            least = quotas.iter().copied().fold(least, usize::min);
            most = quotas.iter().copied().fold(most, usize::max);
            for (lane, quota) in quotas.into_iter().enumerate() {
                let mut look = Look::new(quota, usize::MAX);
                for _ in 0..quota {
                    at[lane] += every[lane];
                    look.brought(at[lane], 1);
                }
                looks[lane] = Some(look);
            }
        }
        let apart = at.iter().max().unwrap() - at.iter().min().unwrap();
        assert!(apart < 1_000, "{at:?}");
        assert!(least >= 50, "nor does a lane starve that is ahead: {least}");
        assert!(most <= 400, "for one that is far behind: {most}");
    }
}
