//! What a controller of the tests, and of the fuzz targets, tells of itself. Whoever has this as a module has its names.

use super::{Identity, Nqn, Text, Version};

/// Returns a controller's identity.
pub(crate) fn identity() -> Identity {
    Identity {
        subnqn: Nqn::new("nqn.2014-08.org.nvmexpress:uuid:0").expect("a name"),
        serial_number: Text::new("serial number", "S1").expect("fits"),
        model_number: Text::new("model number", "A model").expect("fits"),
        firmware: Text::new("firmware", "1.0").expect("fits"),
        uuid: [0x5a; 16],
        cntlid: 7,
        vid: 0x1234,
        ssvid: 0x5678,
        version: Version::V2_0,
    }
}
