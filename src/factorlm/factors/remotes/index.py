"""`index.json`: which versions of which factors a shared store has, and the checksum that each must have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from factorlm.errors import IntegrityError, UnknownNameError
from factorlm.factors.manifest import NAME_PATTERN, VERSION_PATTERN, Manifest
from factorlm.factors.seal import digest_of
from factorlm.factors.store import MANIFEST
from factorlm.settings import Config, explain_validation

INDEX = "index.json"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]


class Entry(Config):
    """What the index says of one version, so that a list needs no weights.

    Attributes:
        sha256: of its factor.json.
        kind: of factor.
        encoder: fingerprint of the encoder that it was made for, if it needs one.
        num_bytes: of all its files.
        description: one line.
        licence: of the factor.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    kind: str
    encoder: str | None
    num_bytes: Annotated[int, Field(ge=0)]
    description: str
    licence: str

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> Entry:
        """The entry of a factor folder."""
        return cls(
            sha256=digest_of(folder),
            kind=manifest.kind,
            encoder=manifest.encoder.fingerprint if manifest.encoder else None,
            num_bytes=sum((folder / name).stat().st_size for name in (MANIFEST, *manifest.files)),
            description=manifest.description,
            licence=manifest.licence,
        )


class Index(Config):
    """The content of index.json."""

    format: Literal[1] = 1
    factors: dict[Name, dict[Version, Entry]] = Field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes, address: str) -> Index:
        """From the bytes of the file.

        Raises:
            IntegrityError: if they are no index, or one with names that no factor can have.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise IntegrityError(f"{address}: {explain_validation(error, INDEX)}") from None

    def content(self) -> bytes:
        """As it is written: names sorted, newest versions first."""
        factors = {
            name: {version: versions[version] for version in newest_first(versions)}
            for name, versions in sorted(self.factors.items())
        }
        return (Index(factors=factors).model_dump_json(indent=2) + "\n").encode()

    def entry(self, name: str, version: str) -> Entry | None:
        """What is known of a version, if it is there."""
        return self.factors.get(name, {}).get(version)

    def with_entry(self, name: str, version: str, entry: Entry) -> Index:
        """The index after this version was pushed."""
        return Index(factors={**self.factors, name: {**self.factors.get(name, {}), version: entry}})

    def choose(self, name: str, version: str | None, address: str) -> tuple[str, Entry]:
        """The version asked for, or the newest.

        Raises:
            UnknownNameError: if the store has no such factor or version.
        """
        versions = self.factors.get(name)
        if not versions:
            raise UnknownNameError.of(f"factor in {address}", name, self.factors)
        if version is None:
            version = newest_first(versions)[0]
        if version not in versions:
            raise UnknownNameError(
                f"no version {version!r} of {name} in {address}; there are {', '.join(newest_first(versions))}"
            )
        return version, versions[version]


def newest_first(versions: dict[str, Entry]) -> list[str]:
    """By number, part by part: 0.10.0 is newer than 0.9.0."""
    return sorted(versions, key=lambda version: tuple(map(int, version.split("."))), reverse=True)
