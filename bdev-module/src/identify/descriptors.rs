//! The namespace identification descriptor list (base specification, Identify CNS 03h).

use nvme_spec::identify::{NamespaceDescriptor, NamespaceIdType};

use super::{id, read};

/// The most descriptors that are looked at: there are four types, and each is given once.
const MOST: usize = 16;

/// What a descriptor list says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Descriptors {
    /// IEEE extended unique identifier.
    pub(crate) eui64: Option<[u8; 8]>,
    /// Namespace globally unique identifier.
    pub(crate) nguid: Option<[u8; 16]>,
    /// UUID.
    pub(crate) uuid: Option<[u8; 16]>,
    /// Command set identifier; none stands for the NVM command set.
    pub(crate) csi: Option<u8>,
}

/// Why a descriptor list is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DescriptorError {
    /// A descriptor of the wrong length.
    #[error("its namespace descriptor of type {kind} must be {right} bytes long, got {len}")]
    Length {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
        /// What is right.
        right: usize,
    },
    /// A descriptor that does not lie within the list.
    #[error("its namespace descriptor at byte {at} reaches beyond the end of the list")]
    End {
        /// Where it begins.
        at: usize,
    },
    /// Two descriptors of a type that differ, or more than there are types.
    #[error("its namespace descriptors contradict each other")]
    Twice,
}

impl Descriptors {
    /// Takes apart a list, which ends with a descriptor of no length.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, DescriptorError> {
        let mut found = Self::default();
        let mut at = 0_usize;
        for _ in 0..MOST {
            let NamespaceDescriptor { nidt, nidl, .. } = read(data, at);
            let len = usize::from(nidl);
            if at >= data.len() || len == 0 {
                return Ok(found);
            }
            let start = at.saturating_add(size_of::<NamespaceDescriptor>());
            let end = start.saturating_add(len);
            let body = data.get(start..end).ok_or(DescriptorError::End { at })?;
            let kind = nidt.0;
            match nidt {
                NamespaceIdType::EUI64 => once(&mut found.eui64, fixed(kind, body)?)?,
                NamespaceIdType::NGUID => once(&mut found.nguid, fixed(kind, body)?)?,
                NamespaceIdType::UUID => once(&mut found.uuid, fixed(kind, body)?)?,
                NamespaceIdType::CSI => once(&mut found.csi, fixed(kind, body)?.map(|[csi]: [u8; 1]| csi).or(Some(0)))?,
                // Types that are not known yet say nothing that is needed.
                _ => {}
            }
            at = end;
        }
        Err(DescriptorError::Twice)
    }
}

fn fixed<const N: usize>(kind: u8, body: &[u8]) -> Result<Option<[u8; N]>, DescriptorError> {
    let value = body.try_into().map_err(|_| DescriptorError::Length { kind, len: body.len(), right: N })?;
    Ok(id(value))
}

fn once<T: PartialEq>(place: &mut Option<T>, value: Option<T>) -> Result<(), DescriptorError> {
    match (&*place, value) {
        (_, None) => {}
        (Some(before), Some(value)) if *before != value => return Err(DescriptorError::Twice),
        (_, Some(value)) => *place = Some(value),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    const UUID: NamespaceIdType = NamespaceIdType::UUID;

    fn descriptor(kind: NamespaceIdType, body: &[u8]) -> Vec<u8> {
        let nidl = u8::try_from(body.len()).expect("short");
        [NamespaceDescriptor { nidt: kind, nidl, reserved_2: [0; 2] }.as_bytes(), body].concat()
    }

    fn list(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut data = parts.concat();
        data.resize(4096, 0);
        data
    }

    #[test]
    fn every_identifier_is_taken_from_its_descriptor() {
        let data = list(&[
            descriptor(UUID, &[7; 16]),
            descriptor(NamespaceIdType::EUI64, &[1; 8]),
            descriptor(NamespaceIdType::NGUID, &[2; 16]),
            descriptor(NamespaceIdType::CSI, &[2]),
        ]);
        let right = Descriptors { eui64: Some([1; 8]), nguid: Some([2; 16]), uuid: Some([7; 16]), csi: Some(2) };
        assert_eq!(Descriptors::parse(&data), Ok(right));
    }

    #[test]
    fn an_identifier_of_zeros_is_none() {
        assert_eq!(Descriptors::parse(&list(&[descriptor(UUID, &[0; 16])])), Ok(Descriptors::default()));
    }

    #[test]
    fn a_descriptor_of_a_wrong_length_is_refused() {
        let data = list(&[descriptor(UUID, &[7; 15])]);
        assert_eq!(Descriptors::parse(&data), Err(DescriptorError::Length { kind: UUID.0, len: 15, right: 16 }));
    }

    #[test]
    fn a_descriptor_beyond_the_end_is_refused() {
        let mut data = descriptor(NamespaceIdType(9), &[1; 12]);
        data.extend_from_slice(&descriptor(UUID, &[1; 16])[..5]);
        assert_eq!(Descriptors::parse(&data), Err(DescriptorError::End { at: 16 }));
    }

    #[test]
    fn two_identifiers_of_a_type_are_believed_only_if_they_are_the_same() {
        let twice = |second| Descriptors::parse(&list(&[descriptor(UUID, &[7; 16]), descriptor(UUID, &[second; 16])]));
        assert!(twice(7).is_ok());
        assert_eq!(twice(8), Err(DescriptorError::Twice));
    }

    proptest! {
        #[test]
        fn any_list_is_taken_apart_without_panic(data in prop::collection::vec(any::<u8>(), 0..4200)) {
            let _ = Descriptors::parse(&data);
        }

        #[test]
        fn what_is_given_is_found(uuid: [u8; 16], eui64: [u8; 8]) {
            let data = list(&[descriptor(NamespaceIdType::EUI64, &eui64), descriptor(UUID, &uuid)]);
            let found = Descriptors::parse(&data).expect("a good list");
            prop_assert_eq!((found.uuid, found.eui64), (id(uuid), id(eui64)));
        }
    }
}
