//! Control messages (ancillary data) as bytes: `struct cmsghdr` and what follows it.

const WORD: usize = size_of::<usize>();
const HEADER: usize = size_of::<libc::cmsghdr>();

/// Room for all control messages of one packet, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Control(pub(crate) [u8; 128]);

impl Control {
    pub(crate) const EMPTY: Self = Self([0; 128]);
}

/// One control message.
pub(crate) struct Message<'a> {
    pub(crate) level: i32,
    pub(crate) kind: i32,
    pub(crate) data: &'a [u8],
}

impl Message<'_> {
    /// The data as one native 32-bit integer.
    pub(crate) fn integer(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.data.first_chunk()?))
    }
}

/// The control messages in `bytes`, as received.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::from_ne_bytes(*bytes.first_chunk()?);
        let message = Message {
            level: i32::from_ne_bytes(*bytes.get(HEADER - 8..)?.first_chunk()?),
            kind: i32::from_ne_bytes(*bytes.get(HEADER - 4..)?.first_chunk()?),
            data: bytes.get(HEADER..len)?,
        };
        bytes = bytes.get(len.next_multiple_of(WORD)..).unwrap_or_default();
        Some(message)
    })
}

/// Writes control messages for one packet to be sent.
pub(crate) struct Writer<'a> {
    room: &'a mut Control,
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(room: &'a mut Control) -> Self {
        Self { room, len: 0 }
    }

    /// Appends one message.
    ///
    /// # Panics
    /// If the messages of one packet outgrow their room, which is a bug of the caller.
    pub(crate) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = HEADER + data.len();
        let place = &mut self.room.0[self.len..self.len + len.next_multiple_of(WORD)];
        place.fill(0);
        place[..WORD].copy_from_slice(&len.to_ne_bytes());
        place[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        place[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        place[HEADER..len].copy_from_slice(data);
        self.len += len.next_multiple_of(WORD);
    }

    /// Bytes written.
    pub(crate) fn finish(self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut room = Control::EMPTY;
        let mut writer = Writer::new(&mut room);
        writer.push(17, 103, &1448u16.to_ne_bytes());
        writer.push(41, 50, &[7; 20]);
        let len = writer.finish();
        let read: Vec<_> =
            messages(&room.0[..len]).map(|m| (m.level, m.kind, m.data.to_vec())).collect();
        assert_eq!(read, [(17, 103, 1448u16.to_ne_bytes().to_vec()), (41, 50, vec![7; 20])]);
    }

    #[test]
    fn damaged_control_data_ends_the_list() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(messages(&[255; 64]).count(), 0);
    }
}
