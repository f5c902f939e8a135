//! Proofs that both sides of a connection have the same secret, which is never sent: BLAKE3 keyed by the secret, over both
//! greetings as they were sent, which hold a number that each side has made up for this connection. What was once said
//! proves nothing on another connection, and what one side says is no answer of the other. The client proves first, so that
//! who merely connects learns nothing that guesses could be tried on.
//!
//! It does not protect what is said afterwards: somebody on the way can read it, change it and take the connection over.
//! Only TLS does.

/// Random bytes of each side.
pub(super) const NONCE_BYTES: usize = 32;
pub(super) type Nonce = [u8; NONCE_BYTES];

/// So that a secret that is used elsewhere too proves nothing here.
const CONTEXT: &str = "berth peer handshake v1 shared secret";

/// What each side of one connection says.
pub(super) struct Proofs {
    client: blake3::Hash,
    server: blake3::Hash,
}

impl Proofs {
    /// Of the greetings of client and server, prefixes included.
    pub(super) fn new(secret: &str, client_greeting: &[u8], server_greeting: &[u8]) -> Self {
        let key = blake3::derive_key(CONTEXT, secret.as_bytes());
        let proof = |side: u8| {
            let mut hasher = blake3::Hasher::new_keyed(&key);
            hasher.update(&[side]);
            for greeting in [client_greeting, server_greeting] {
                hasher.update(&(greeting.len() as u64).to_le_bytes()).update(greeting);
            }
            hasher.finalize()
        };
        Self { client: proof(b'c'), server: proof(b's') }
    }

    pub(super) fn of_client(&self) -> [u8; 32] {
        *self.client.as_bytes()
    }

    pub(super) fn of_server(&self) -> [u8; 32] {
        *self.server.as_bytes()
    }

    pub(super) fn is_of_client(&self, said: &[u8]) -> bool {
        is(self.client, said)
    }

    pub(super) fn is_of_server(&self, said: &[u8]) -> bool {
        is(self.server, said)
    }
}

/// Hashes of this type are compared in constant time.
fn is(expected: blake3::Hash, said: &[u8]) -> bool {
    <[u8; 32]>::try_from(said).is_ok_and(|said| blake3::Hash::from_bytes(said) == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_secret_one_side_and_one_connection() {
        let proofs = Proofs::new("secret", b"client", b"server");
        assert!(proofs.is_of_client(&proofs.of_client()) && proofs.is_of_server(&proofs.of_server()));
        assert!(!proofs.is_of_server(&proofs.of_client()) && !proofs.is_of_client(&proofs.of_server()));
        for other in [
            Proofs::new("secreT", b"client", b"server"),
            Proofs::new("secret", b"clienT", b"server"),
            Proofs::new("secret", b"client", b"serveR"),
            Proofs::new("secret", b"clients", b"erver"),
        ] {
            assert!(!proofs.is_of_client(&other.of_client()) && !proofs.is_of_server(&other.of_server()));
        }
        assert!(!proofs.is_of_client(b"") && !proofs.is_of_client(&proofs.of_client()[..31]));
    }

    #[test]
    fn proofs_have_these_bytes() {
        let proofs = Proofs::new("secret", b"client", b"server");
        let hex = |bytes: [u8; 32]| blake3::Hash::from_bytes(bytes).to_hex().to_string();
        assert_eq!(hex(proofs.of_client()), "da63febcd8a9770a365275c00a5138983ac60a2df09424da1f0b9040d399991e");
        assert_eq!(hex(proofs.of_server()), "6fe6567329cc254ffc97f31ac248ed82d6cf49441c11417943d37429958683fa");
    }
}
