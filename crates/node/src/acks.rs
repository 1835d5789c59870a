//! Acknowledgements that one request asks for, in place of those of its bucket.

use slipring_model::{Error, ErrorKind};
use slipring_service::Access;

use crate::call::CallOptions;
use crate::failure::unavailable;
use crate::view::Place;

/// Whether the copies of a key can give the acknowledgements that a request asks for: those that its bucket is to
/// have, and those that there are.
///
/// # Errors
/// `Invalid` when the bucket never has so many copies, `Unavailable` when the key has fewer now.
pub(crate) fn check_acks(
    options: &CallOptions,
    access: Access,
    (replicas, place): (u8, &Place),
) -> Result<(), Error> {
    for (name, asked, matters) in [
        ("read_acks", options.read_acks, access != Access::BlindWrite),
        ("write_acks", options.write_acks, access != Access::Read),
    ] {
        let Some(asked) = asked else { continue };
        if !(1..=replicas).contains(&asked) {
            let message = format!(
                "{name} is {asked}, and must be 1 to {replicas}: each key of this bucket has {replicas} copies; nothing \
                 was done"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let copies = place.copies();
        if matters && asked > copies {
            return Err(unavailable(format!(
                "{name} is {asked}, and the key has {copies} of {replicas} copies now; nothing was done: ask for fewer, or \
                 add nodes and try again when `slipring status` shows the copies"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::place;

    fn kind(read_acks: Option<u8>, write_acks: Option<u8>, access: Access) -> Option<ErrorKind> {
        let options = CallOptions { read_acks, write_acks, deadline: None };
        check_acks(&options, access, (3, &place(&[1, 2], None))).err().map(|error| error.kind)
    }

    #[test]
    fn wish_beyond_the_copies_is_refused() {
        for (asked, expected) in [
            (0, Some(ErrorKind::Invalid)),
            (1, None),
            (2, None),
            (3, Some(ErrorKind::Unavailable)),
            (4, Some(ErrorKind::Invalid)),
            (255, Some(ErrorKind::Invalid)),
        ] {
            assert_eq!(kind(Some(asked), None, Access::Read), expected, "{asked}");
            assert_eq!(kind(None, Some(asked), Access::BlindWrite), expected, "{asked}");
            assert_eq!(kind(Some(asked), None, Access::ReadModifyWrite), expected, "{asked}");
            assert_eq!(kind(None, Some(asked), Access::ReadModifyWrite), expected, "{asked}");
        }
        assert_eq!(kind(None, Some(3), Access::Read), None, "a read writes nothing");
        assert_eq!(kind(None, None, Access::ReadModifyWrite), None);
    }

    #[test]
    fn smaller_set_counts_while_a_partition_moves() {
        let options = CallOptions { write_acks: Some(2), ..CallOptions::default() };
        let (one, two, three) = (&[1][..], &[1, 2][..], &[1, 2, 3][..]);
        for (old, next, is_refused) in [(two, three, false), (one, three, true), (three, one, true)] {
            let checked = check_acks(&options, Access::BlindWrite, (3, &place(old, Some(next))));
            assert_eq!(checked.is_err(), is_refused, "{old:?} {next:?}");
        }
    }
}
