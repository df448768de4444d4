//! The fields of a protobuf message, none of which is read beyond its end.

/// What a field of a message holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FieldValue<'a> {
    /// A whole number, a flag or a choice.
    Number(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// Four bytes, such as of an `f32`.
    Fixed([u8; 4]),
    /// Eight bytes.
    Long([u8; 8]),
}

impl<'a> FieldValue<'a> {
    /// A number as protobuf's `int32` has it: negative ones take ten bytes.
    pub(crate) fn int(self) -> Option<i32> {
        match self {
            Self::Number(number) => i32::try_from(number as i64).ok(),
            _ => None,
        }
    }

    pub(crate) fn flag(self) -> Option<bool> {
        match self {
            Self::Number(number) => Some(number != 0),
            _ => None,
        }
    }

    pub(crate) fn float(self) -> Option<f32> {
        match self {
            Self::Fixed(bytes) => Some(f32::from_le_bytes(bytes)),
            _ => None,
        }
    }

    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn text(self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

/// Iterates over a message's fields, each with its tag; ends after the first error.
#[derive(Debug, Clone)]
pub(crate) struct MessageFields<'a> {
    rest: &'a [u8],
}

impl<'a> MessageFields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    /// Seven bits a byte, the lowest first; the last byte has its highest bit unset.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, FieldValue<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => FieldValue::Number(self.varint()?),
            1 => FieldValue::Long(self.take()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                FieldValue::Bytes(bytes)
            }
            5 => FieldValue::Fixed(self.take()?),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for MessageFields<'a> {
    type Item = Result<(u64, FieldValue<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let left = self.rest.len();
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| format!("no field of a message {left} bytes before its end")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_to_the_end_and_no_further() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 1, 0, 0, 0, 0, 0, 0, 0];
        let fields: Vec<_> = MessageFields::new(&message).map(|field| field.expect("whole")).collect();
        assert_eq!(fields.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(
            (fields[0].1.int(), fields[0].1.flag(), fields[1].1.text()),
            (Some(150), Some(true), Some("hi".into()))
        );
        assert_eq!((fields[2].1.float(), fields[3].1), (Some(1.0), FieldValue::Long([1, 0, 0, 0, 0, 0, 0, 0])));
        let minus = [&[0x08][..], &[0xff; 9], &[1]].concat();
        assert_eq!(MessageFields::new(&minus).next().expect("a field").expect("whole").1.int(), Some(-1));
        for end in 1..message.len() {
            let read: Vec<_> = MessageFields::new(&message[..end]).collect();
            assert!(read.len() <= 4 && read.iter().rev().skip(1).all(Result::is_ok), "{end}");
        }
        for damaged in [&[0x08][..], &[0x08, 0x80], &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x0b], &[0xff; 11]] {
            assert!(MessageFields::new(damaged).last().expect("something").is_err(), "{damaged:?}");
        }
    }
}
