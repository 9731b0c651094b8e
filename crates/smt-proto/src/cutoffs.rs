//! Priorities of what needs no grant, by the length of the message (spec 6.9).

/// The highest priority.
pub(crate) const HIGHEST: u8 = 7;
/// Priorities there are.
pub(crate) const LEVELS: usize = 8;

/// The longest message, in bytes of its wire stream, that each priority is meant for.
pub(crate) type Cutoffs = [u32; LEVELS];

/// What everybody goes by before a receiver has told better: half of the levels for what it grants.
pub(crate) const DEFAULT: Cutoffs = [0, 0, 0, 0, u32::MAX, 15_000, 2_800, 300];

/// Priority of a message of `wire_len` bytes: the highest it fits, the lowest if it fits none. Whatever
/// the cutoffs, there is one.
pub(crate) fn priority(cutoffs: &Cutoffs, wire_len: u32) -> u8 {
    let highest = cutoffs.iter().rposition(|longest| wire_len <= *longest);
    highest.and_then(|level| u8::try_from(level).ok()).unwrap_or(0)
}

/// What a peer has told about how to send to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    cutoffs: Cutoffs,
    /// Bytes of a message that need no grant.
    unscheduled: u32,
    /// Echoed in DATA packets.
    pub(crate) version: u16,
    /// Control number of the packet that said so: the newest counts.
    number: u64,
}

impl Told {
    /// What holds before anything was told, but for what the peer `declared` in its parameters.
    pub(crate) fn nothing(declared: u32) -> Self {
        Told { cutoffs: DEFAULT, unscheduled: declared, version: 0, number: 0 }
    }

    /// Takes an authentic CUTOFFS of control number `number`, unless a newer one came before. Its limit
    /// never exceeds the `declared` one.
    pub(crate) fn update(
        &mut self,
        number: u64,
        (cutoffs, version): (Cutoffs, u16),
        unscheduled: u32,
        declared: u32,
    ) {
        if number > self.number {
            let unscheduled = unscheduled.min(declared);
            *self = Told { cutoffs, unscheduled, version, number };
        }
    }

    /// Bytes of a message that may go without a grant. Never 0: the receiver must learn of the message.
    pub(crate) fn unscheduled(&self) -> u32 {
        self.unscheduled.max(1)
    }

    /// Priority of these bytes for a message of `wire_len` bytes.
    pub(crate) fn priority(&self, wire_len: u32) -> u8 {
        priority(&self.cutoffs, wire_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_messages_go_at_higher_priorities_and_nonsense_gives_some() {
        let lengths = [1, 300, 301, 2_800, 15_000, 15_001, u32::MAX];
        assert_eq!(lengths.map(|len| priority(&DEFAULT, len)), [7, 7, 6, 6, 5, 4, 4]);
        assert_eq!(priority(&[0; LEVELS], 1), 0);
        assert_eq!(priority(&[u32::MAX; LEVELS], u32::MAX), 7);
        assert_eq!(priority(&[9, 1, 9, 0, 0, 0, 0, 0], 5), 2);
    }

    #[test]
    fn the_newest_word_counts_within_what_was_declared() {
        let mut told = Told::nothing(1000);
        assert_eq!((told.unscheduled(), told.version), (1000, 0));
        told.update(7, ([0; LEVELS], 3), 500, 1000);
        assert_eq!((told.unscheduled(), told.version, told.priority(1)), (500, 3, 0));
        told.update(6, (DEFAULT, 2), 900, 1000);
        assert_eq!((told.unscheduled(), told.version), (500, 3));
        told.update(8, (DEFAULT, 1), 5000, 1000);
        assert_eq!((told.unscheduled(), told.version, told.priority(1)), (1000, 1, 7));
        told.update(9, (DEFAULT, 4), 0, 1000);
        assert_eq!(told.unscheduled(), 1);
    }
}
