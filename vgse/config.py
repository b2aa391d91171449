"""The configuration: frozen, typed, every field explained by the sentence under it.

A YAML file gives the values, the command line may override each of them (`--relate.alpha -0.05`). Anything unknown, of
the wrong type or out of range is refused with the path of the field, what is allowed and the nearest right name.
Relative paths are taken from the directory the command is started in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

Uris = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
# YAML reads a bare true or false as a truth value.
Switch = Annotated[
    Literal["auto", "true", "false"], BeforeValidator(lambda v: str(v).lower() if isinstance(v, bool) else v)
]
Secret = Annotated[SecretStr | None, tyro.conf.Suppress]


class Section(BaseModel):
    """What every section shares: immutable, no unknown keys, the sentence under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


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


class CropConfig(Section):
    """How images become patches."""

    method: Literal["watershed", "grid"] = "watershed"
    """Patches are the bounding boxes of a compact watershed (the paper), or the cells of a grid."""
    patches: int = Field(default=9, ge=1, le=64)
    """Patches per image (T; N_t in the paper)."""
    segment_side: int = Field(default=64, ge=16)
    """Short side in pixels at which the watershed runs; boxes are scaled back."""
    compactness: float = Field(default=0.01, gt=0)
    """Compactness of the watershed as at a short side of 256; it is rescaled to `segment_side`."""
    short_side: int = Field(default=256, ge=16)
    """Images are stored with their short side capped at this many pixels."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Images with more pixels than this are quarantined undecoded (decompression bombs)."""
    rows_per_shard: int = Field(default=2048, ge=1)
    """Images per shard; smaller data sets use smaller shards so that all CPUs have work."""


class EncodeConfig(Section):
    """Which backbone turns pixels into features."""

    backbone: str = "resnet50"
    """`tiny`, a torchvision name such as resnet50, or timm/NAME (with the extra vgse[timm])."""
    weights: str = "pretrained"
    """A .safetensors or .pth file (local or s3), `pretrained` for the library's own, or `none` for random weights."""
    input_size: int | None = Field(default=None, ge=16)
    """Side in pixels at which patches and images enter the backbone (default: the backbone's own)."""
    batch_size: int = Field(default=256, ge=1)
    """Pixels tensors per forward pass."""
    oracle_images: int = Field(default=50, ge=0)
    """Images per unseen class whose patches are encoded too, for the oracle arm only; 0 leaves that arm out."""


class ClusterConfig(Section):
    """The clustering network and its objective L_clu + lambda L_pel + beta L_cls + gamma L_sem."""

    mode: Literal["frozen", "finetune"] = "frozen"
    """frozen trains the heads on cached features (minutes); finetune trains the backbone with them."""
    num_clusters: int = Field(default=150, ge=2)
    """Number of clusters (K; D_v in the paper), the length of a class embedding."""
    epochs: int = Field(default=15, ge=1)
    """Passes over all patches."""
    batch_size: int = Field(default=1024, ge=2)
    """Patches per optimiser step over all workers together."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the heads."""
    backbone_learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of the backbone (finetune)."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of AdamW."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs of linear warm-up before the cosine decay."""
    lambda_pel: float = Field(default=5.0, ge=0)
    """Weight of L_pel, which keeps the clusters from collapsing (lambda)."""
    beta_cls: float = Field(default=1.0, ge=0)
    """Weight of L_cls, the classification loss (beta)."""
    gamma_sem: float = Field(default=1.0, ge=0)
    """Weight of L_sem, the distance to the class's word vector (gamma)."""
    neighbours: int = Field(default=5, ge=1)
    """Nearest neighbours per patch in L_clu."""
    bank_size: int = Field(default=4096, ge=1)
    """Patches remembered as candidate neighbours."""
    checkpoint_every: float = Field(default=1.0, gt=0)
    """Epochs between checkpoints; a fraction such as 0.25 saves in the middle of an epoch, for long ones."""
    validate_every: int = Field(default=5, ge=0)
    """Epochs between looks at T1 and H on the val classes (`val_T1`, `val_H` in the metrics); 0 never looks. Only fits
    that choices are made with have val classes to look at, so the final fit is not validated."""
    validation_images: int = Field(default=50, ge=1)
    """Images per class that such a look uses, of each part: training, held out, val classes."""
    keep_best: int = Field(default=1, ge=0)
    """Checkpoints kept for having the highest val_H, beside the newest."""
    serve: Literal["last", "best"] = "last"
    """Which checkpoint makes the embeddings: that of the last epoch, or that with the highest val_H. A final fit has no
    val_H and always serves its last."""
    log_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Where figures go beside metrics.jsonl and TensorBoard; the package must be installed where `vgse` is started."""
    heads_from: str | None = None
    """Run directory of a finished run in frozen mode on the same images and classes, whose heads finetune starts from
    (default: fresh heads)."""
    head_epochs: int = Field(default=0, ge=0)
    """Epochs at the start of finetune in which only the heads learn and the backbone stays as it is."""
    augment: float = Field(default=0.5, ge=0, le=1)
    """Strength of the augmentation of patches in finetune: mirrored, colours changed by up to 40 %, boxes by 20 % in
    size and 10 % in place, times this; 0 switches it off."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches per optimiser step, for batches that do not fit into memory; the gradients are those of the whole
    batch, at the price of one more forward pass."""
    mixed_precision: Switch = "auto"
    """Run the backbone in bfloat16 in finetune: auto does where the hardware is made for it. Losses stay float32."""
    compile: bool = False
    """Compile the backbone with torch.compile in finetune; where that is impossible, training says so and goes on."""
    validation_fit: bool = True
    """Train a second network without the val classes to make choices with; false reuses the final one (half the
    time, but the network that choices are made with has then seen the val images)."""
    max_failures: int = Field(default=3, ge=0)
    """How many times training continues from its last checkpoint after a worker died."""


# Settings of cluster that frozen mode does not read.
FINETUNE_ONLY = ("heads_from", "head_epochs", "augment", "mixed_precision", "compile")


class RelateConfig(Section):
    """How unseen classes are expressed through seen ones."""

    method: Literal["simplex", "weighted_average", "kernel_ridge", "mean"] = "simplex"
    """The constrained least-squares problem of the paper (SMO), its weighted average of nearest classes, kernel ridge
    regression, or the mean of all three over the fused knowledge and over every source by itself."""
    alpha: float = Field(default=0.0, ge=-1, le=0)
    """Lower bound of every coefficient r_i, between -1 and 0."""
    ridge: float = Field(default=0.5, ge=0)
    """Weight of (ridge/2) ||r||^2, in units of the class vectors as `words` makes them."""
    words: Literal["centred", "l2", "raw"] = "centred"
    """Vectors of each source minus the seen mean and L2-normalised, only L2-normalised, or as they are."""
    neighbours: int = Field(default=5, ge=1)
    """Nearest seen classes in the weighted average (N_b)."""
    eta: float = Field(default=5.0, gt=0)
    """Sharpness of the weighted average, weights exp(-eta d)."""
    kernel_ridge: float = Field(default=0.1, gt=0)
    """Ridge of the kernel regression, in units of the kernel's diagonal."""


class EvaluateConfig(Section):
    """How the embeddings are judged. Choices are made on the val classes only."""

    models: tuple[Literal["eszsl", "sje", "prototype"], ...] = Field(
        default=("eszsl", "sje", "prototype"), min_length=1
    )
    """Zero-shot models: ESZSL (closed form), SJE (bilinear, softmax cross-entropy) and whitened image prototypes."""
    features: Literal["both", "whole", "patches"] = "both"
    """Image features: of the whole image, the mean of its patches', or both joined."""
    input_size: int | None = Field(default=None, ge=16)
    """Side in pixels at which images are encoded for the evaluation (default: encode.input_size); frozen mode only."""
    folds: int = Field(default=1, ge=1)
    """Class-level cross-validation on the seen classes: 1 uses `val` as the pseudo-unseen classes, each further fold
    other classes out of `train` (and trains a network of its own, unless cluster.validation_fit is false)."""
    choice_held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the training images kept aside as seen test images while choices are made."""
    random_draws: int = Field(default=1, ge=1)
    """Draws of the random arm, whose mean is reported."""
    match_lengths: bool = True
    """Bring every arm's unseen embeddings to the mean length of its seen ones, by one factor: a relation averages, and
    averages are short, which costs unseen classes in GZSL. T1 does not change."""
    protocol: Literal["honest", "as_published"] = "honest"
    """as_published chooses hyperparameters, epochs and calibration on the test set, as the released evaluation does:
    for comparison with published tables only, and labelled so."""


class ResourcesConfig(Section):
    """What the stages ask the cluster for."""

    workers: int | None = Field(default=None, ge=1)
    """Training workers (default: one per GPU, or one on a machine without a GPU)."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """CPUs of a training or encoding worker (default: all of them shared out, one kept for reading in finetune)."""
    use_gpu: bool | None = None
    """Train and encode on GPUs (default: where the cluster has any, or may grow any)."""
    grows_to: str | None = None
    """cluster.yaml or KubeRay manifest that says what a cluster with autoscaling may grow to. A job on a cluster that
    `ray up` started finds that by itself; anywhere else a cluster counts as it stands unless this says more."""


class Config(Section):
    """One run of vgse: from images to evaluated class embeddings."""

    run: str
    """The run directory (local or s3); the same command on the same directory continues or does nothing."""
    data: DataConfig
    """Images, classes and word vectors."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything drawn at random."""
    seeds: int = Field(default=1, ge=1)
    """Number of seeds: every class split is trained and judged with `seed`, `seed` + 1, ..."""
    storage: StorageConfig = StorageConfig()
    """Access to s3:// locations."""
    knowledge: KnowledgeConfig = KnowledgeConfig()
    """What classes are known by."""
    crop: CropConfig = CropConfig()
    """Images to patches."""
    encode: EncodeConfig = EncodeConfig()
    """Pixels to features."""
    cluster: ClusterConfig = ClusterConfig()
    """Features to visual clusters."""
    relate: RelateConfig = RelateConfig()
    """Seen to unseen classes."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Zero-shot evaluation."""
    resources: ResourcesConfig = ResourcesConfig()
    """Workers, CPUs and GPUs."""

    @model_validator(mode="after")
    def _frozen_needs_a_trained_backbone(self) -> Config:
        if self.cluster.mode == "frozen" and self.encode.backbone == "tiny" and self.encode.weights == "none":
            raise ValueError(
                "cluster.mode frozen on encode.backbone tiny with encode.weights none would cluster the output of an "
                "untrained network; set cluster.mode to finetune or give encode.weights"
            )
        return self

    @model_validator(mode="after")
    def _the_backbone_joins_in(self) -> Config:
        if self.cluster.head_epochs >= self.cluster.epochs and self.cluster.mode == "finetune":
            raise ValueError(
                f"cluster.head_epochs is {self.cluster.head_epochs}, but cluster.epochs only {self.cluster.epochs}: "
                "the backbone would never be trained; lower cluster.head_epochs or set cluster.mode to frozen"
            )
        return self

    @model_validator(mode="after")
    def _best_needs_validation(self) -> Config:
        cluster = self.cluster
        if cluster.serve == "best" and not (cluster.validate_every and cluster.keep_best and cluster.validation_fit):
            raise ValueError(
                "cluster.serve best needs validation: set cluster.validate_every and cluster.keep_best above 0 and "
                "cluster.validation_fit to true, or cluster.serve to last"
            )
        return self

    def public_dict(self) -> dict[str, Any]:
        """The configuration as plain data, without the storage section's credentials."""
        return self.model_dump(mode="json", exclude={"storage": {"key", "secret", "token"}})
