"""The configuration: frozen, typed, every field explained by the sentence under it.

A YAML file gives the values, the command line may override each of them (`--relate.alpha -0.05`). Anything unknown, of
the wrong type or out of range is refused with the path of the field, what is allowed and the nearest right name.
Relative paths are taken from the directory the command is started in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vgse.config_inputs import DataConfig, KnowledgeConfig, StorageConfig
from vgse.config_section import Section
from vgse.config_tuning import TuneConfig

# YAML reads a bare true or false as a truth value.
Switch = Annotated[
    Literal["auto", "true", "false"], BeforeValidator(lambda v: str(v).lower() if isinstance(v, bool) else v)
]


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
    """Images are stored with their short side capped at this many pixels. A JPEG at least twice, four or eight times as
    large is decoded at that much smaller a scale."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Images with more pixels than this are quarantined undecoded (decompression bombs)."""
    max_quarantined: float = Field(default=0.5, ge=0, le=1)
    """Share of all images that may be unusable; with more the run stops, keeping what is done. 1 never stops it."""
    shard_mb: float = Field(default=128, gt=0)
    """Size of a shard in megabytes, by a sample of the images; small data sets use smaller shards so that all CPUs have
    work."""
    rows_per_shard: int | None = Field(default=None, ge=1)
    """Images per shard at most (default: as many as make `shard_mb`)."""

    def images_per_shard(self, stored_bytes: float) -> int:
        """Images that make a shard where each takes so many bytes on average."""
        images = max(1, int(self.shard_mb * 1e6 / stored_bytes))
        return min(images, self.rows_per_shard) if self.rows_per_shard else images


class EncodeConfig(Section):
    """Which backbone turns pixels into features."""

    backbone: str = "resnet50"
    """`tiny`, a torchvision name such as resnet50, or timm/NAME (with the extra vgse[timm])."""
    weights: str = "pretrained"
    """A .safetensors or .pth file (local or s3), `pretrained` for the library's own, or `none` for random weights."""
    input_size: int | None = Field(default=None, ge=16)
    """Side in pixels at which patches and images enter the backbone (default: the backbone's own)."""
    batch_size: int = Field(default=256, ge=1)
    """Pixel tensors that are cut at once, and pass through the backbone at once on a GPU (on a CPU 32 do)."""
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
    choice_images: int | None = Field(default=None, ge=1)
    """Keep aside at most so many images of a class, and judge choices on so many of each pseudo-unseen class (default:
    no limit); with thousands of images a class most of the evaluation's time goes there."""
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
    relate_tasks_from: int = Field(default=4097, ge=1)
    """Number of unseen classes from which relate hands them out to Ray tasks; fewer are solved in the driver, where
    that takes less than starting tasks."""


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
    tune: TuneConfig = TuneConfig()
    """Tuning campaigns."""

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
