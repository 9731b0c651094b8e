//! An assembler for the few BPF instructions that a packet filter takes: jumps go to labels.

use crate::sys::bpf::Instruction;

/// A register; R0 holds results, R1..R5 arguments, R6..R9 survive calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
}

/// Width of a load, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    B1,
    B2,
    B4,
}

/// When to jump. Comparisons are of unsigned 64-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Equal,
    NotEqual,
    Above,
}

/// A place to jump to, once [`Assembler::place`]d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

// Classes, operations and sources (linux/bpf_common.h, linux/bpf.h).
const LD_IMM64: u8 = 0x18;
const LDX_MEM: u8 = 0x61;
const ALU64: u8 = 0x07;
const ALU32: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const SUB: u8 = 0x10;
const AND: u8 = 0x50;
const LSH: u8 = 0x60;
const RSH: u8 = 0x70;
const MOV: u8 = 0xb0;
const TO_BE: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const PSEUDO_MAP_FD: u8 = 1;

/// A program being written.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    program: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Jumps, and where they lead.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A new label, to be placed.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is where `label` is.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.program.len());
    }

    /// `to` = `width` bytes at `base` + `offset`, in native order.
    pub(super) fn load(&mut self, width: Width, to: Register, base: Register, offset: i16) {
        let width = match width {
            Width::B4 => 0x00,
            Width::B2 => 0x08,
            Width::B1 => 0x10,
        };
        self.emit(LDX_MEM | width, to as u8 | (base as u8) << 4, offset, 0);
    }

    /// `to` = `from`.
    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.emit(ALU64 | MOV | REGISTER, to as u8 | (from as u8) << 4, 0, 0);
    }

    /// `to` = `value`.
    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.emit(ALU64 | MOV, to as u8, 0, value);
    }

    /// `to` += `value`.
    pub(super) fn add(&mut self, to: Register, value: i32) {
        self.emit(ALU64 | ADD, to as u8, 0, value);
    }

    /// `to` += `from`.
    pub(super) fn add_register(&mut self, to: Register, from: Register) {
        self.emit(ALU64 | ADD | REGISTER, to as u8 | (from as u8) << 4, 0, 0);
    }

    /// `to` -= `from`.
    pub(super) fn subtract(&mut self, to: Register, from: Register) {
        self.emit(ALU64 | SUB | REGISTER, to as u8 | (from as u8) << 4, 0, 0);
    }

    /// `to` &= `value`, of the low 32 bits; the others become 0.
    pub(super) fn and(&mut self, to: Register, value: u32) {
        self.emit(ALU32 | AND, to as u8, 0, value as i32);
    }

    /// `to` <<= `bits`, of the low 32 bits; the others become 0.
    pub(super) fn shift_left(&mut self, to: Register, bits: u32) {
        self.emit(ALU32 | LSH, to as u8, 0, bits as i32);
    }

    /// `to` >>= `bits`, of the low 32 bits; the others become 0.
    pub(super) fn shift_right(&mut self, to: Register, bits: u32) {
        self.emit(ALU32 | RSH, to as u8, 0, bits as i32);
    }

    /// The low 16 bits of `register`, from network order to native; the others become 0.
    pub(super) fn swap_be16(&mut self, register: Register) {
        self.emit(TO_BE, register as u8, 0, 16);
    }

    /// Goes to `label` if `left` compares so to `right`.
    pub(super) fn jump_if(&mut self, left: Register, when: When, right: Register, label: Label) {
        self.jump(JMP | REGISTER | when.code(), left as u8 | (right as u8) << 4, 0, label);
    }

    /// Goes to `label` if the low 32 bits of `left` compare so to `right`.
    pub(super) fn jump_if_value(&mut self, left: Register, when: When, right: u32, label: Label) {
        // The class of 32-bit comparisons: in the other, values are extended by their sign.
        self.jump(JMP32 | when.code(), left as u8, right as i32, label);
    }

    /// Goes to `label`.
    pub(super) fn jump_to(&mut self, label: Label) {
        self.jump(JMP, 0, 0, label);
    }

    /// `to` = the map of this process's descriptor `fd`.
    pub(super) fn load_map(&mut self, to: Register, fd: i32) {
        self.emit(LD_IMM64, to as u8 | PSEUDO_MAP_FD << 4, 0, fd);
        self.emit(0, 0, 0, 0);
    }

    /// Calls a function of the kernel by number.
    pub(super) fn call(&mut self, function: i32) {
        self.emit(CALL, 0, 0, function);
    }

    /// Ends the program with what R0 holds.
    pub(super) fn exit(&mut self) {
        self.emit(EXIT, 0, 0, 0);
    }

    /// The finished program.
    ///
    /// # Panics
    /// If a jump leads to a label that was never placed, or too far: bugs of whoever wrote it.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].map(|to| to as i64 - at as i64 - 1);
            let offset = to.and_then(|offset| i16::try_from(offset).ok());
            assert!(offset.is_some(), "the jump at {at} leads nowhere");
            self.program[at].offset = offset.unwrap_or(0);
        }
        self.program
    }

    fn jump(&mut self, code: u8, registers: u8, immediate: i32, label: Label) {
        self.jumps.push((self.program.len(), label));
        self.emit(code, registers, 0, immediate);
    }

    fn emit(&mut self, code: u8, registers: u8, offset: i16, immediate: i32) {
        self.program.push(Instruction { code, registers, offset, immediate });
    }
}

impl When {
    fn code(self) -> u8 {
        match self {
            Self::Equal => 0x10,
            Self::Above => 0x20,
            Self::NotEqual => 0x50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_labels() {
        let mut code = Assembler::default();
        let (back, end) = (code.label(), code.label());
        code.place(back);
        code.load_map(Register::R1, 7);
        code.jump_if_value(Register::R1, When::Equal, u32::MAX, end);
        code.jump_to(back);
        code.place(end);
        code.exit();
        let program = code.finish();
        assert_eq!(program.iter().map(|i| i.offset).collect::<Vec<_>>(), [0, 0, 1, -4, 0]);
        let equal = Instruction { code: 0x16, registers: 1, offset: 1, immediate: -1 };
        assert_eq!(program[2], equal);
    }

    #[test]
    fn instructions_are_those_of_the_kernels_headers() {
        let mut code = Assembler::default();
        code.load(Width::B1, Register::R5, Register::R2, 23);
        code.load(Width::B2, Register::R5, Register::R2, 12);
        code.load(Width::B4, Register::R2, Register::R1, 4);
        code.copy(Register::R4, Register::R2);
        code.set(Register::R0, 2);
        code.add(Register::R4, 38);
        code.subtract(Register::R3, Register::R6);
        code.and(Register::R5, 0xffe0);
        code.add_register(Register::R2, Register::R7);
        code.shift_left(Register::R2, 3);
        code.shift_right(Register::R7, 2);
        code.swap_be16(Register::R5);
        code.call(51);
        code.exit();
        let bytes = code.finish().iter().map(|i| (i.code, i.registers)).collect::<Vec<_>>();
        let expected = [
            (0x71, 0x25),
            (0x69, 0x25),
            (0x61, 0x12),
            (0xbf, 0x24),
            (0xb7, 0x00),
            (0x07, 0x04),
            (0x1f, 0x63),
            (0x54, 0x05),
            (0x0f, 0x72),
            (0x64, 0x02),
            (0x74, 0x07),
            (0xdc, 0x05),
            (0x85, 0x00),
            (0x95, 0x00),
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    #[should_panic(expected = "leads nowhere")]
    fn labels_must_be_placed() {
        let mut code = Assembler::default();
        let label = code.label();
        code.jump_to(label);
        code.finish();
    }
}
