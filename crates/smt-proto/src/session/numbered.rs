//! RPCs by number. Numbers are given out one after the other and those in use are near each other, so most
//! have a place of their own in a short table: the number itself says which.

use alloc::vec::Vec;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Places of a table that is not empty, at least.
const MIN_PLACES: usize = 8;

/// Values by number. However a peer chooses numbers, the memory taken is in proportion to how many there
/// are (or were, until it [shrinks](Self::shrink_to_fit)).
#[derive(Debug)]
pub(crate) struct Numbered<T> {
    /// A power of two of places, or none; a number's is that of its low bits.
    places: Vec<Option<(u64, T)>>,
    /// Those that found their place taken, while fewer than half of the places were.
    others: HashMap<u64, T, FxBuildHasher>,
    len: usize,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Numbered { places: Vec::new(), others: HashMap::default(), len: 0 }
    }
}

impl<T> Numbered<T> {
    /// The place of a number; none has one in a table without.
    #[inline]
    fn place(&self, number: u64) -> usize {
        number as usize & self.places.len().wrapping_sub(1)
    }

    #[inline]
    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        match self.places.get(self.place(number)) {
            Some(Some((of, value))) if *of == number => Some(value),
            _ if self.others.is_empty() => None,
            _ => self.others.get(&number),
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = self.place(number);
        match self.places.get_mut(place) {
            Some(Some((of, value))) if *of == number => Some(value),
            _ if self.others.is_empty() => None,
            _ => self.others.get_mut(&number),
        }
    }

    #[inline]
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.get(number).is_some()
    }

    /// Enters a number that is not in it.
    #[inline]
    pub(crate) fn insert(&mut self, number: u64, value: T) -> &mut T {
        if !matches!(self.places.get(self.place(number)), Some(None)) {
            self.make_place(number);
        }
        self.len += 1;
        let place = self.place(number);
        match self.places.get_mut(place) {
            Some(free @ None) => &mut free.insert((number, value)).1,
            _ => self.others.entry(number).insert(value).into_mut(),
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let place = self.place(number);
        let found = match self.places.get_mut(place) {
            Some(found @ Some(_)) if found.as_ref().is_some_and(|(of, _)| *of == number) => {
                found.take().map(|(_, value)| value)
            }
            _ if self.others.is_empty() => None,
            _ => self.others.remove(&number),
        };
        self.len -= usize::from(found.is_some());
        found
    }

    /// Drops a value where it is, without moving it.
    #[inline]
    pub(crate) fn drop_one(&mut self, number: u64) {
        let place = self.place(number);
        match self.places.get_mut(place) {
            Some(found) if found.as_ref().is_some_and(|(of, _)| *of == number) => {
                *found = None;
                self.len -= 1;
            }
            _ => _ = self.remove(number),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let placed = self.places.iter().flatten().map(|(number, value)| (*number, value));
        placed.chain(self.others.iter().map(|(number, value)| (*number, value)))
    }

    /// Gives back memory that is not needed.
    pub(crate) fn shrink_to_fit(&mut self) {
        let needed = match self.len {
            0 => 0,
            len => len.next_power_of_two().max(MIN_PLACES),
        };
        if self.places.len() > needed {
            self.resize(needed);
        }
        self.others.shrink_to_fit();
    }

    /// Makes the table longer until a number has a place, or it would be too empty.
    #[cold]
    fn make_place(&mut self, number: u64) {
        while matches!(self.places.get(self.place(number)), Some(Some(_)) | None) {
            if self.places.len() > 2 * self.len {
                return;
            }
            self.resize((2 * self.places.len()).max(MIN_PLACES));
        }
    }

    /// Enters all anew in a table of so many places.
    fn resize(&mut self, places: usize) {
        let old = core::mem::take(&mut self.places);
        let others = core::mem::take(&mut self.others);
        self.places.reserve_exact(places);
        self.places.resize_with(places, || None);
        for (number, value) in old.into_iter().flatten().chain(others) {
            let place = self.place(number);
            match self.places.get_mut(place) {
                Some(free @ None) => *free = Some((number, value)),
                _ => _ = self.others.insert(number, value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map_of_bounded_size(
            steps in proptest::collection::vec((0..8u8, 0..200u64, 0..40u32), 0..600),
        ) {
            let (mut ours, mut model) = (Numbered::default(), BTreeMap::new());
            let mut most = 0;
            for (step, number, scale) in steps {
                // Near each other, and as far apart as a hostile peer would have them.
                let number = if step % 2 == 0 { number } else { number << scale };
                match step {
                    0..4 if !model.contains_key(&number) => {
                        *ours.insert(number, 0) = number;
                        model.insert(number, number);
                    }
                    4 => {
                        ours.drop_one(number);
                        model.remove(&number);
                    }
                    5 => prop_assert_eq!(ours.remove(number), model.remove(&number)),
                    6 => {
                        if let Some(value) = ours.get_mut(number) {
                            *value += 1;
                        }
                        model.entry(number).and_modify(|value| *value += 1);
                    }
                    _ if number % 16 == 0 => {
                        ours.shrink_to_fit();
                        most = model.len();
                    }
                    _ => {}
                }
                most = most.max(model.len());
                prop_assert_eq!(ours.get(number), model.get(&number));
                prop_assert_eq!(ours.contains(number), model.contains_key(&number));
                prop_assert_eq!(ours.len(), model.len());
                prop_assert!(ours.places.len() <= (4 * most).max(MIN_PLACES));
                let mut all: Vec<_> = ours.iter().map(|(number, value)| (number, *value)).collect();
                all.sort_unstable();
                prop_assert!(all.into_iter().eq(model.iter().map(|(number, value)| (*number, *value))));
            }
        }
    }

    #[test]
    fn numbers_in_order_have_places_and_leave_nothing() {
        let mut ours = Numbered::default();
        for number in 0..1000u64 {
            ours.insert(number, ());
            if let Some(over) = number.checked_sub(100) {
                ours.remove(over);
            }
        }
        assert_eq!((ours.places.len(), ours.others.len(), ours.len()), (128, 0, 100));
        (900..1000).for_each(|number| assert_eq!(ours.remove(number), Some(())));
        ours.shrink_to_fit();
        assert_eq!(ours.places.capacity(), 0);
    }
}
