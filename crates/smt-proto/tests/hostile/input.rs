//! A string of bytes read as choices and numbers.

use smt_proto::crypto::Random;

/// The rest of the input; zeros when it is at its end.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.u8()).collect()
    }

    /// A number that is often small, now and then at an edge or anything.
    pub fn number(&mut self) -> u32 {
        match self.u8() {
            byte @ 0..=199 => u32::from(byte) * 16,
            200..=229 => u32::from(self.u16()),
            230..=249 => self.u32(),
            _ => u32::MAX,
        }
    }
}

/// Random bytes that are the same in every life.
pub struct Counting(pub u64);

impl Random for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}
