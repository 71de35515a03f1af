use super::super::memfd;
use super::super::testing::{PAGE, file};
use super::*;

#[test]
fn a_file_that_is_sealed_against_shrinking_is_known_as_such() {
    assert!(!is_sealed(&file(PAGE).into()));
    let sealed = memfd::create(c"courier-test", PAGE, libc::MFD_ALLOW_SEALING).expect("a memfd");
    assert!(!is_sealed(&sealed.try_clone().expect("a descriptor").into()));
    memfd::seal_length(&sealed).expect("sealed");
    assert!(is_sealed(&sealed.try_clone().expect("a descriptor").into()));
    let descriptor = sealed.try_clone().expect("a descriptor");
    let number = descriptor.as_raw_fd();
    let budget = LimitShare::of_nobody();
    let file = MappedFile::new(descriptor.into(), 0, PAGE, Access::ReadWrite, &budget).expect("mapped");
    assert!(file.range.file.is_none() && file.is_intact(), "descriptor {number} is given back");
}
