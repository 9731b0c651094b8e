//! Big-endian fields at fixed places of fixed-size arrays. Each access is checked when it is
//! compiled, so none is when it runs.

/// Reads fields.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a, const N: usize>(pub(super) &'a [u8; N]);

impl<const N: usize> Fields<'_, N> {
    #[inline(always)]
    fn bytes<const AT: usize, const LEN: usize>(self) -> [u8; LEN] {
        const { assert!(AT + LEN <= N, "field outside its header") };
        let mut bytes = [0; LEN];
        bytes.copy_from_slice(&self.0[AT..AT + LEN]);
        bytes
    }

    #[inline(always)]
    pub(super) fn u8<const AT: usize>(self) -> u8 {
        self.bytes::<AT, 1>()[0]
    }

    #[inline(always)]
    pub(super) fn u16<const AT: usize>(self) -> u16 {
        u16::from_be_bytes(self.bytes::<AT, 2>())
    }

    #[inline(always)]
    pub(super) fn u24<const AT: usize>(self) -> u32 {
        let [a, b, c] = self.bytes::<AT, 3>();
        u32::from_be_bytes([0, a, b, c])
    }

    #[inline(always)]
    pub(super) fn u32<const AT: usize>(self) -> u32 {
        u32::from_be_bytes(self.bytes::<AT, 4>())
    }

    #[inline(always)]
    pub(super) fn u64<const AT: usize>(self) -> u64 {
        u64::from_be_bytes(self.bytes::<AT, 8>())
    }
}

/// Writes fields.
pub(super) struct FieldsMut<'a, const N: usize>(pub(super) &'a mut [u8; N]);

impl<const N: usize> FieldsMut<'_, N> {
    #[inline(always)]
    fn put<const AT: usize, const LEN: usize>(&mut self, bytes: [u8; LEN]) {
        const { assert!(AT + LEN <= N, "field outside its header") };
        self.0[AT..AT + LEN].copy_from_slice(&bytes);
    }

    #[inline(always)]
    pub(super) fn u8<const AT: usize>(&mut self, value: u8) {
        self.put::<AT, 1>([value]);
    }

    #[inline(always)]
    pub(super) fn u16<const AT: usize>(&mut self, value: u16) {
        self.put::<AT, 2>(value.to_be_bytes());
    }

    /// Writes the low 24 bits of `value`.
    #[inline(always)]
    pub(super) fn u24<const AT: usize>(&mut self, value: u32) {
        let [_, a, b, c] = value.to_be_bytes();
        self.put::<AT, 3>([a, b, c]);
    }

    #[inline(always)]
    pub(super) fn u32<const AT: usize>(&mut self, value: u32) {
        self.put::<AT, 4>(value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn u64<const AT: usize>(&mut self, value: u64) {
        self.put::<AT, 8>(value.to_be_bytes());
    }
}
