"""Signatures of models: Ed25519, with a key that is neither in the repository nor in the artefact store."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pipelines.errors import ArtifactRefused, InvalidSetting
from pipelines.settings import PREFIX, Settings


def sign(settings: Settings, content: bytes) -> bytes:
    """The signature of some content.

    Raises:
        InvalidSetting: this installation only verifies.
    """
    key = _private_key(settings)
    if key is None:
        raise InvalidSetting(
            "models cannot be signed here",
            where=f"environment variable {PREFIX}SIGNING_KEY",
            expected="the secret from which the key is derived",
            found="no value",
            remedy="train where the secret is known; where it is not, models are only read",
        )
    return key.sign(content)


def require_signed(settings: Settings, content: bytes, signature: bytes, where: str) -> None:
    """Nothing, when the signature was made of the content by the holder of the secret.

    Raises:
        ArtifactRefused: it was not.
    """
    try:
        _public_key(settings).verify(signature, content)
    except InvalidSignature as error:
        raise ArtifactRefused(
            "the signature is not that of the content",
            where=where,
            expected=f"signed for the key {public_key(settings)}",
            found=f"a signature of {len(signature)} bytes that does not match",
            remedy="find out who changed the files; restore them, or promote another version",
        ) from error


def public_key(settings: Settings) -> str:
    """The key that verifies, in hexadecimal, for machines that only read models."""
    return _public_key(settings).public_bytes_raw().hex()


def _private_key(settings: Settings) -> Ed25519PrivateKey | None:
    secret = settings.signing_secret
    if not secret:
        return None
    seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"nightjar model signature").derive(secret)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _public_key(settings: Settings) -> Ed25519PublicKey:
    if settings.verify_key:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(settings.verify_key))
    key = _private_key(settings)
    if key is None:
        raise InvalidSetting(
            "models cannot be verified",
            where=f"environment variables {PREFIX}VERIFY_KEY and {PREFIX}SIGNING_KEY",
            expected="one of them",
            found="neither",
            remedy="set the public key that `nightjar model key` prints where models are trained",
        )
    return key.public_key()
