//! How many messages to read of each lane.

/// Shares `total` among the lanes: lanes that were full the last time share what the others leave,
/// and each gets at least its even part, so that one deep lane neither starves the others nor is
/// starved by their unused parts.
///
/// `last` holds, for each lane, how many messages the last read was to bring and how many it brought.
pub(super) fn share(total: usize, last: &[Option<(usize, usize)>]) -> Vec<usize> {
    let even = (total / last.len().max(1)).max(1);
    let wants_more = |last: &Option<(usize, usize)>| match last {
        Some((asked, got)) => got >= asked,
        None => true,
    };
    let deep = last.iter().filter(|last| wants_more(last)).count();
    let spare: usize = last
        .iter()
        .flatten()
        .filter(|(asked, got)| got < asked)
        // What a lane may bring this time: a bit more than the last time.
        .map(|(_, got)| even.saturating_sub(got + even / 4))
        .sum();
    last.iter()
        .map(|last| match wants_more(last) {
            true => even + spare / deep,
            false => even,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn at_first_all_lanes_get_the_same() {
        assert_eq!(share(1_000, &[None; 4]), [250; 4]);
    }

    #[test]
    fn a_deep_lane_gets_what_the_others_leave() {
        let quotas = share(1_600, &[Some((100, 100)), Some((100, 0)), Some((100, 0))]);
        assert_eq!(quotas[1..], [533; 2]);
        assert!(quotas[0] > 1_300, "{quotas:?}");
    }

    #[test]
    fn every_lane_gets_something() {
        assert_eq!(share(1, &[None; 3]), [1, 1, 1]);
        assert_eq!(share(10, &[]), [0; 0]);
    }
}
