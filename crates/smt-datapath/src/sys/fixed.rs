//! Memory at an address that stays the same, for the kernel's message headers to point into.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A boxed slice whose elements may be pointed to for as long as it lives.
///
/// A plain `Box` may not: each use of it claims that no other pointer leads to its contents.
pub(super) struct Fixed<T> {
    items: NonNull<[T]>,
}

impl<T> Fixed<T> {
    pub(super) fn new(items: Vec<T>) -> Self {
        Self { items: NonNull::from(Box::leak(items.into_boxed_slice())) }
    }

    /// Address of element `index`, for the kernel. Dereferenced by nothing in safe code.
    pub(super) fn address(&self, index: usize) -> *mut T {
        assert!(index < self.items.len(), "element {index} of {}", self.items.len());
        self.items.cast::<T>().as_ptr().wrapping_add(index)
    }
}

impl<T> Deref for Fixed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `items` came from a leaked box that only `drop` frees; `&self` keeps writers
        // out, since the kernel writes only during calls that borrow the owner mutably.
        unsafe { self.items.as_ref() }
    }
}

impl<T> DerefMut for Fixed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { self.items.as_mut() }
    }
}

impl<T> Drop for Fixed<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::leak` in `new` and is given back once.
        drop(unsafe { Box::from_raw(self.items.as_ptr()) });
    }
}

// SAFETY: a `Fixed` owns its elements, as a box does.
unsafe impl<T: Send> Send for Fixed<T> {}
