"""The sections that say what a run starts from: access to stores, images and classes, knowledge of classes."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import BeforeValidator, Field, SecretStr, model_validator

from vgse.config_section import Section

Uris = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Secret = Annotated[SecretStr | None, tyro.conf.Suppress]


class StorageConfig(Section):
    """How s3:// locations are reached; everything left empty comes from the usual AWS variables and files."""

    endpoint_url: str | None = None
    """S3 endpoint, for servers other than AWS, e.g. http://127.0.0.1:9000 (else AWS_ENDPOINT_URL)."""
    region: str | None = None
    """Region of the bucket (else AWS_DEFAULT_REGION or the AWS configuration file)."""
    key: Secret = None
    """Access key; better left to AWS_ACCESS_KEY_ID or a role. Never printed, never written into a run."""
    secret: Secret = None
    """Secret key; better left to AWS_SECRET_ACCESS_KEY or a role. Never printed, never written into a run."""
    token: Secret = None
    """Session token of temporary credentials (else AWS_SESSION_TOKEN)."""
    anonymous: bool = False
    """Read a public bucket without credentials."""
    retries: int = Field(default=5, ge=0)
    """How often a failed request is tried again, with growing pauses."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds without an answer after which one request counts as failed."""


class DataConfig(Section):
    """Which images, which classes, and what the classes are known by."""

    images: Uris
    """Location(s) of the images: a folder tree (class = first folder), Parquet (`image` bytes, `class_name`),
    WebDataset tars, or the folder that the paths of a published benchmark (xlsa17) lead into."""
    test_images: Uris = ()
    """Location(s) of held-out test images. Left empty, `held_out_fraction` of the images is held out instead."""
    format: Literal["auto", "folder", "parquet", "webdataset", "xlsa17"] = "auto"
    """Layout of the images; auto takes xlsa17 where `classes` is a .mat, Parquet where .parquet files are found and
    WebDataset where .tar files are found and no images."""
    classes: str
    """YAML file with the lists `train`, `val` and `unseen` of class names, or att_splits.mat of a published benchmark,
    which also says which images are held out."""
    image_files: str | None = None
    """The .mat with `image_files` and `labels` that belongs to an att_splits.mat (default: res101.mat beside it)."""
    class_names: str | None = None
    """Text file with a class name a line: what the numbers 0, 1, ... mean that tars or Parquet give as classes."""
    class_splits: int = Field(default=1, ge=1)
    """Number of class splits to run: the first is `classes`, the others are redrawn from it at the same sizes."""
    word_vectors: str
    """Word vectors: word2vec .bin or .txt, GloVe .txt, fastText .vec, or .npz with `words` and `vectors`."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Words to look up instead of a class name, e.g. {lawn_mower: mower}."""
    aliases_file: str | None = None
    """YAML file with more of these, for data sets whose classes are named by ids (ImageNet)."""
    held_out_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of every class's images held out for testing where `test_images` is empty."""
    images_per_class: int | None = Field(default=None, ge=2)
    """Use at most this many images of each class (and as many test images), chosen the same way every time."""

    @property
    def is_benchmark(self) -> bool:
        """Whether the images are those of a published benchmark, which says itself what each serves for."""
        return self.format == "xlsa17" or (self.format == "auto" and self.classes.endswith(".mat"))

    @model_validator(mode="after")
    def _benchmarks_are_as_published(self) -> DataConfig:
        if self.format == "xlsa17" and not self.classes.endswith(".mat"):
            raise ValueError("format xlsa17 takes the classes from an att_splits.mat, but classes is none")
        if self.is_benchmark and (self.test_images or self.class_splits > 1 or len(self.images) > 1):
            raise ValueError(
                "an att_splits.mat says itself which images are held out and which classes are unseen: give one "
                "location as images and leave out test_images and class_splits, or give a YAML file as classes"
            )
        return self


class KnowledgeConfig(Section):
    """What classes are known by: every source gives one vector per class, and the relation is found on all of them."""

    names: bool = True
    """Word vectors of the class names."""
    texts: str | None = None
    """JSONL, CSV or Parquet file with `class_name` and columns of text; each column is a source of its own."""
    text_fields: tuple[str, ...] = ()
    """Columns of `texts` to use (default: synonyms, gloss, description, document, hypernyms, those that it has)."""
    wordnet: str | None = None
    """Folder of a WordNet dictionary (data.noun, index.noun, ...); gives synonyms, gloss, hypernyms (vgse[wordnet])."""
    wordnet_senses: str | None = None
    """YAML file of class names to n07739125 or apple.n.01, for names whose first noun sense is not the one meant."""
    taxonomy: str | None = None
    """CSV with the columns child and parent, or `texts` or `wordnet` for the hypernyms found there; one coordinate per
    ancestor, weighted by information content."""
    vectors: str | None = None
    """Your own class vectors, e.g. a text encoder's: .npz (`class_names`, `vectors`), .csv or .parquet."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weights of sources by name, e.g. {gloss: 0.5}; all others weigh 1."""
    sif: float = Field(default=1e-3, ge=0)
    """a of the weights a / (a + p(word)) of the words in a text; 0 weighs all words alike."""

    @model_validator(mode="after")
    def _some_source(self) -> KnowledgeConfig:
        if not (self.names or self.texts or self.wordnet or self.taxonomy or self.vectors):
            raise ValueError("names is false and no other source is given; classes must be known by something")
        for kind in ("texts", "wordnet"):
            if self.taxonomy == kind and not getattr(self, kind):
                raise ValueError(f"taxonomy is {kind}, but knowledge.{kind} is not given")
        return self
