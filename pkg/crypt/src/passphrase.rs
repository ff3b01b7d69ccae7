//! What a private key may be locked with.

use std::fmt;

use zeroize::Zeroizing;

/// The passphrase of a private key, or none. Never shown; wiped when it is dropped.
#[derive(Clone, Default)]
pub struct Passphrase(Option<Zeroizing<String>>);

impl Passphrase {
    /// An empty text is no passphrase.
    pub fn new(text: String) -> Passphrase {
        Passphrase(Some(Zeroizing::new(text)).filter(|text| !text.is_empty()))
    }

    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|text| text.as_bytes())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Passphrase(given)" } else { "Passphrase(none)" })
    }
}
