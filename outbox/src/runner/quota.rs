//! How many messages to read of each lane.

/// Shares `total` among the lanes. `last` holds, for each lane, how many messages the last read was to
/// bring and how many it brought.
///
/// A lane that was not full the last time gets a bit more than it brought then, at most its even part;
/// what that leaves is shared by the others. So one deep lane neither starves the others nor waits for
/// their unused parts. Only where `total` is less than the number of lanes, the sum is more: each gets
/// at least one.
pub(super) fn share(total: usize, last: &[Option<(usize, usize)>]) -> Vec<usize> {
    let even = (total / last.len().max(1)).max(1);
    let quotas: Vec<_> = last
        .iter()
        .map(|last| match last {
            Some((asked, got)) if got < asked => Some(even.min(got + even / 4 + 1)),
            _ => None,
        })
        .collect();
    let deep = quotas.iter().filter(|quota| quota.is_none()).count();
    let spare: usize = quotas.iter().flatten().map(|quota| even - quota).sum();
    let deep_quota = even + spare.checked_div(deep).unwrap_or(0);
    quotas
        .into_iter()
        .map(|quota| quota.unwrap_or(deep_quota))
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
        let quotas = share(1_600, &[Some((100, 100)), Some((100, 0)), Some((100, 10))]);
        assert!(quotas[0] > 1_200, "{quotas:?}");
        assert!(quotas[1] >= 100 && quotas[2] > quotas[1], "{quotas:?}");
        assert!(quotas.iter().sum::<usize>() <= 1_600, "{quotas:?}");
    }

    #[test]
    fn every_lane_gets_something() {
        assert_eq!(share(1, &[None; 3]), [1, 1, 1]);
        assert_eq!(share(3, &[Some((1, 0)); 3]), [1, 1, 1]);
        assert_eq!(share(10, &[]), [0; 0]);
    }
}
