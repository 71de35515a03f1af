//! What the tables of the specification are written down with.

/// A field whose values have names, as a wrapper of its number: every number is a value, also one that has no name.
macro_rules! named_values {
    ($(#[$attribute:meta])* $name:ident($repr:ident) { $($constant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$attribute])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $(
                #[doc = concat!($text, ".")]
                pub const $constant: Self = Self($value);
            )*

            /// Every value that has a name here, in ascending order.
            pub const NAMED: &'static [Self] = &[$(Self::$constant),*];

            /// Returns the specification's name of the value, or `None` for one that has no name here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            /// Returns the value of these bits: for use as a bit field.
            #[must_use]
            pub const fn from_bits(bits: $repr) -> Self {
                Self(bits)
            }

            /// Returns the bits of the value: for use as a bit field.
            #[must_use]
            pub const fn into_bits(self) -> $repr {
                self.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{name} ({:02X}h)", self.0),
                    None => write!(f, concat!(stringify!($name), " {:02X}h"), self.0),
                }
            }
        }
    };
}

/// Fields of bits, the lowest first, in a number of a fixed size. Fields that are named `__` are reserved: they are 0
/// in a new value, and kept in one that came from elsewhere.
macro_rules! bit_fields {
    ($($(#[$attribute:meta])* $name:ident($repr:ident) { $($body:tt)* })*) => {
        $(
            $(#[$attribute])*
            #[bitfield_struct::bitfield($repr)]
            #[derive(
                PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
            )]
            pub struct $name {
                $($body)*
            }
        )*
    };
}

/// A structure as it lies in memory or on the wire.
macro_rules! layouts {
    ($($(#[$attribute:meta])* $name:ident[$size:literal] { $($body:tt)* })*) => {
        $(
            $(#[$attribute])*
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
            )]
            #[repr(C)]
            pub struct $name {
                $($body)*
            }

            const _: () = assert!(size_of::<$name>() == $size);
        )*
    };
}
