"""Training of the stamp classifier: network, augmentation, training loop, and the model file for ONNX Runtime.

The network follows Carrasco-Davis et al. 2021, with changes. A fine and a coarse view of the images
(`classifiers.stamp`) go through small convolutional branches with batch normalisation. Their features are averaged over
the four rotations by 90° (cyclic pooling), so that the answer cannot depend on the orientation, and are joined with the
columns of the alert in a dense head. Most epochs use one random orientation, mirrored or not, of each alert, at a
quarter of the cost; the last epochs use all four. The loss is cross-entropy − β × mean entropy of the answers.

Needs the extra `training`; nothing that only classifies imports this module.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from tensorflow import keras

from alerce_spark.classifiers import stamp
from alerce_spark.classifiers.outliers import LEVELS, gaussian
from alerce_spark.classifiers.stamp import Columns, Doubles, Floats, Input
from alerce_spark.classifiers.taxonomy import STAMP_CLASSES
from alerce_spark.simulation.first_alerts import first_alerts
from alerce_spark.training.metrics import indices

Ints = npt.NDArray[np.int64]

#: Seed and size of the training of the shipped model, and its version.
SHIPPED_SEED, SHIPPED_VERSION, PER_CLASS = 20261123, "bootstrap-1.0.0", 2500
#: The inputs of the shipped model: without those that describe the simulated sky, or how long the survey has observed,
#: more than the object. On real alerts of the development half those reduce agreement (see the report's ablations).
COLUMNS = tuple(
    one.name
    for one in stamp.INPUTS
    if one.name not in ("ra", "dec", "ndethist", "ncovhist", "non_detections")
    and not one.name.startswith(("ecl_", "gal_"))
)


@dataclass(frozen=True)
class Options:
    """Options of a training; the defaults are those of the model that ships with the package.

    columns: names of stamp.INPUTS, none for a network of images only. with_images: False for columns only.
    filters: of the first and of the second pair of convolutions of the fine branch; the coarse one has single ones.
    entropy: β of the loss. settling: epochs with all four rotations, after `epochs` with one. patience: epochs without
    a better validation loss after which each of the two parts ends. minutes: no epoch begins after this time. on_stars:
    share of the bogus alerts that `bad_subtraction` makes from stars. odds: class frequencies that the answers assume,
    after a training with equal frequencies. Asteroids are by far the most first alerts of the sky; a doubled frequency
    raised their agreement on the development half from 0.78 to 0.97 at no cost on simulated alerts (0.835).
    """

    columns: tuple[str, ...] = COLUMNS
    with_images: bool = True
    filters: tuple[int, int] = (16, 32)
    dense: int = 64
    dropout: float = 0.3
    entropy: float = 0.1
    batch: int = 64
    rate: float = 2e-3
    epochs: int = 12
    settling: int = 2
    patience: int = 5
    minutes: float = 15.0
    on_stars: float = 0.35
    odds: tuple[float, ...] = (1.0, 1.0, 1.0, 2.0, 1.0)


@dataclass(frozen=True)
class Trained:
    """A trained network: `content` of its model file, its Keras model, and the record of the training.

    metrics: figures of the validation part; history: figures of each epoch.
    """

    content: bytes
    network: Any = field(repr=False)
    inputs: tuple[Input, ...]
    metrics: dict[str, float]
    history: list[dict[str, float]]

    def save(self, path: Path) -> Path:
        """Write the model file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(self.content)
        return temporary.replace(path)


# The network.


def networks(options: Options) -> tuple[Any, Any]:
    """Keras models with shared weights that take [fine, coarse, columns]: with one rotation, and with all four.

    Views are (n, 21, 21, 4), columns (n, c); the answer is (n, 5), probabilities in the order of STAMP_CLASSES. A model
    without images or columns does not take them.
    """
    features = _features(options) if options.with_images else None
    views = [keras.Input((stamp.CROP, stamp.CROP, stamp.CHANNELS), name=name) for name in ("fine", "coarse")]
    columns = keras.Input((len(options.columns),), name="columns")
    width = 0 if features is None else features.output_shape[-1]
    head = _head(options, width)
    inputs = [*(views if features is not None else []), *([columns] if options.columns else [])]
    models = []
    for turns in (1, 4):
        parts = []
        if features is not None:
            turned = [[keras.ops.rot90(view, k, axes=(1, 2)) for view in views] for k in range(turns)]
            stacked = [keras.ops.concatenate(pair, axis=0) for pair in zip(*turned, strict=True)]
            answers = keras.ops.reshape(features(stacked), (turns, -1, width))
            parts.append(keras.ops.mean(answers, axis=0))
        if options.columns:
            parts.append(columns)
        joined = parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)
        models.append(keras.Model(inputs, head(joined)))
    return models[0], models[1]


def _features(options: Options) -> Any:
    """Features of both views in one orientation."""
    layers = keras.layers
    low, high = options.filters
    branches = {"fine": (low, low, 0, high, high, 0), "coarse": (low, 0, high, 0)}
    views, ends = [], []
    for name, plan in branches.items():
        view = keras.Input((stamp.CROP, stamp.CROP, stamp.CHANNELS), name=f"{name}_view")
        x = view
        for i, filters in enumerate(plan):
            if not filters:
                x = layers.MaxPooling2D(2)(x)
                continue
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{i}")(x)
            x = layers.ReLU()(layers.BatchNormalization(name=f"{name}_norm{i}")(x))
        x = layers.Flatten()(x)
        width = options.dense if name == "fine" else options.dense // 2
        ends.append(layers.Dense(width, activation="relu", name=f"{name}_dense")(x))
        views.append(view)
    return keras.Model(views, layers.Concatenate()(ends), name="features")


def _head(options: Options, width: int) -> Any:
    layers = keras.layers
    joined = keras.Input((width + len(options.columns),), name="joined")
    x = layers.Dropout(options.dropout)(joined)
    for i in range(2):
        x = layers.Dense(options.dense, activation="relu", name=f"head_dense{i}")(x)
        x = layers.Dropout(options.dropout)(x)
    return keras.Model(joined, layers.Dense(len(STAMP_CLASSES), activation="softmax", name="head_out")(x), name="head")


def _loss(beta: float) -> Any:
    """Cross-entropy − β × entropy of the answers, for class indices."""

    def loss(truth: Any, answer: Any) -> Any:
        p = keras.ops.clip(answer, 1e-7, 1.0)
        entropy = -keras.ops.sum(p * keras.ops.log(p), axis=-1)
        return keras.losses.sparse_categorical_crossentropy(truth, p) - beta * entropy

    return loss


# Augmentation.

# A star this many noise levels bright leaves residuals that become alerts.
_BRIGHT = 40.0


def augment(images: Floats, rng: np.random.Generator) -> Floats:
    """An augmented copy of images (n, 3, 63, 63).

    One of eight orientations; shifts by a pixel; more noise (the same in science and difference); worse seeing of the
    science image; masked blocks and detector edges off the centre.
    """
    return np.stack([_augment_one(one, rng) for one in images])


def _augment_one(images: Floats, rng: np.random.Generator) -> Floats:
    orientation = int(rng.integers(8))
    out = np.rot90(images, orientation % 4, axes=(1, 2)).copy()
    if orientation >= 4:
        out = out[:, :, ::-1].copy()
    draws = rng.random(4)
    if draws[0] < 0.5:
        dy, dx = (int(d) for d in rng.integers(-1, 2, 2))
        out = np.roll(out, (dy, dx), axis=(1, 2))
        if dy:
            out[:, 0 if dy > 0 else -1] = np.nan
        if dx:
            out[:, :, 0 if dx > 0 else -1] = np.nan
    if draws[1] < 0.2:
        share = np.float32(rng.uniform(0.05, 0.2))
        for channel in (0, 2):
            out[channel] = _blur(out[channel], share)
    if draws[2] < 0.5:
        middle = out[2, ::3, ::3]
        level = 1.4826 * np.nanmedian(np.abs(middle)) if np.isfinite(middle).any() else 0.0
        noise = rng.standard_normal(out.shape[1:], np.float32) * np.float32(level * rng.uniform(0.1, 0.8))
        out[0] += noise
        out[2] += noise
    if draws[3] < 0.15:
        _mask(out, rng)
    return out


def _blur(image: Floats, share: np.float32) -> Floats:
    """Blur: each pixel gives `share` to either neighbour, along both axes."""
    for axis in (0, 1):
        image = (1 - 2 * share) * image + share * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    return image


def _mask(images: Floats, rng: np.random.Generator) -> None:
    """Set a block that spares the candidate, or the pixels beyond an edge, to NaN."""
    side, centre = stamp.SIDE, stamp.SIDE // 2
    if rng.random() < 0.6:
        size = int(rng.integers(5, 16))
        y, x = (int(v) for v in rng.integers(0, side - size, 2))
        if not (y - 4 <= centre <= y + size + 4 and x - 4 <= centre <= x + size + 4):
            images[:, y : y + size, x : x + size] = np.nan
    else:
        images[:, :, : int(rng.integers(1, centre - 4))] = np.nan


def bad_subtraction(images: Floats, rng: np.random.Generator) -> Floats | None:
    """Turn stamps (3, 63, 63) of a star into those of a constant, badly subtracted star; None without a bright star.

    The difference becomes a dipole (misaligned stars) or a ring (different widths), with its noise. Two in three of the
    survey's bogus alerts are like this, at the position of a star: only the images separate them from VS.
    """
    template, difference = images[1], images[2]
    level = 1.4826 * np.nanmedian(np.abs(difference))
    star = np.nan_to_num(template - np.nanmedian(template))
    middle = slice(stamp.SIDE // 2 - 3, stamp.SIDE // 2 + 4)
    if not star[middle, middle].max() > _BRIGHT * level > 0:
        return None
    along_y, along_x = np.gradient(star)
    turn = rng.uniform(0, 2 * np.pi)
    shape = np.cos(turn) * along_x + np.sin(turn) * along_y
    ring = _blur(star, np.float32(0.2)) - star
    shape = shape / np.abs(shape).max() + rng.normal(0, 0.7) * ring / np.abs(ring).max()
    shape *= level * rng.uniform(6, 40) / np.abs(shape[middle, middle]).max()
    change = shape + level * rng.standard_normal(shape.shape)
    return np.stack([template + change, template, change + 0 * difference]).astype(np.float32)


# Training.


def split(n: int, share: float, seed: int) -> tuple[Ints, Ints]:
    """Indices of a random split of n: the remainder, and a part of size `share`."""
    order = np.random.default_rng(seed).permutation(n)
    cut = round(share * n)
    return np.sort(order[cut:]), np.sort(order[:cut])


def fit_inputs(table: Doubles, names: Sequence[str]) -> tuple[Input, ...]:
    """The inputs with the mean and standard deviation of a training set (n, c), after the clips."""
    known = {one.name: one for one in stamp.INPUTS}
    fitted = []
    for column, name in zip(table.T, names, strict=True):
        one = known[name]
        values = np.clip(
            np.where(np.isnan(column), np.nan if one.fill is None else one.fill, column), one.low, one.high
        )
        values = values[np.isfinite(values)]
        mean, std = (float(values.mean()), float(values.std())) if len(values) else (0.0, 1.0)
        fitted.append(replace(one, mean=mean, std=std if std > 0 else 1.0))
    return tuple(fitted)


def train(
    images: Floats,
    columns: Columns,
    label: npt.ArrayLike,
    *,
    seed: int,
    version: str = "0",
    options: Options | None = None,
    validation: float = 0.12,
) -> Trained:
    """Train on images (n, 3, 63, 63), their columns, and labels (n,), indices into STAMP_CLASSES.

    A share `validation` decides when to stop and gives `metrics`. The same seed, data and machine give the same model.
    Classes are drawn equally often. Raises ValueError if a class has no alert.
    """
    options = options or Options()
    label = np.asarray(label, np.int64)
    if len(missing := set(range(len(STAMP_CLASSES))) - set(label.tolist())):
        raise ValueError(f"no alert of class {', '.join(STAMP_CLASSES[k] for k in sorted(missing))}")
    keras.utils.set_random_seed(seed)
    names = list(options.columns)
    table = stamp.inputs(columns, names, len(label))
    learning, checking = split(len(label), validation, seed)
    wanted = fit_inputs(table[learning], names)
    single, full = networks(options)
    check = _taken(options, images[checking], stamp.normalise(table[checking], wanted))
    history: list[dict[str, float]] = []
    begin = time.monotonic()
    for model, epochs, rate in ((single, options.epochs, options.rate), (full, options.settling, options.rate / 5)):
        if not epochs or (model is full and not options.with_images):
            continue
        batches = _batches(options, images, table, wanted, label, learning, seed + len(history))
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches), alpha=0.02)
        model.compile(keras.optimizers.Adam(schedule), _loss(options.entropy), metrics=["accuracy"])
        _fit(model, batches, (check, label[checking]), epochs, options, begin, history)
    _answer_for(full, options.odds)
    answer = np.asarray(full.predict(check, batch_size=256, verbose=0))
    recall = [float((answer[label[checking] == k].argmax(1) == k).mean()) for k in range(len(STAMP_CLASSES))]
    metrics = {
        "balanced_accuracy": float(np.mean(recall)),
        **{f"recall_{name}": value for name, value in zip(STAMP_CLASSES, recall, strict=True)},
        "learned": float(len(learning)),
        "validated": float(len(checking)),
        "epochs": float(len(history)),
        "seconds": round(time.monotonic() - begin, 1),
    }
    content = export_onnx(full, options, wanted, version)
    given = images, stamp.normalise(table, wanted), label
    content = with_outliers(content, *(part[learning] for part in given), *(part[checking] for part in given[:2]))
    return Trained(content, full, wanted, metrics, history)


def train_simulated(
    seed: int, *, per_class: int = PER_CLASS, version: str = "0", options: Options | None = None
) -> Trained:
    """Train on the first alerts of `per_class` simulated objects of each class (48 kB of memory an alert).

    The model that ships with the package is `train_simulated(SHIPPED_SEED, version=SHIPPED_VERSION)`.
    """
    simulated = first_alerts(seed, per_class)
    label = indices(simulated.label.tolist(), STAMP_CLASSES)
    return train(simulated.images, simulated.columns, label, seed=seed, version=version, options=options)


def _taken(options: Options, images: Floats, table: Floats) -> list[Floats]:
    """Inputs of the Keras models of `options`."""
    parts: list[Floats] = []
    if options.with_images:
        fine, coarse, _ = stamp.views(images)
        parts += [np.moveaxis(fine, 1, -1), np.moveaxis(coarse, 1, -1)]
    return [*parts, table] if options.columns else parts


def _answer_for(network: Any, odds: Sequence[float]) -> None:
    """Change the bias of the last layer so that classes with equal frequency in training get these odds."""
    last = network.get_layer("head").get_layer("head_out")
    kernel, bias = last.get_weights()
    last.set_weights([kernel, bias + np.log(np.asarray(odds, bias.dtype))])


def _batches(
    options: Options, images: Floats, table: Doubles, wanted: tuple[Input, ...], label: Ints, rows: Ints, seed: int
) -> Any:
    """An endless Keras dataset: classes equally often, images augmented, some columns unknown."""
    members = [rows[label[rows] == k] for k in range(len(STAMP_CLASSES))]
    star, bogus = (STAMP_CLASSES.index(name) for name in ("VS", "bogus"))

    class Batches(keras.utils.PyDataset):
        epoch = 0

        def __len__(self) -> int:
            return math.ceil(len(rows) / options.batch)

        def __getitem__(self, index: int) -> tuple[Any, Ints]:
            rng = np.random.default_rng((seed, self.epoch, index))
            classes = rng.integers(0, len(members), options.batch)
            chosen = np.array([rng.choice(members[k]) for k in classes])
            drawn = images[chosen]
            for i in np.flatnonzero((classes == bogus) & (rng.random(options.batch) < options.on_stars)):
                other = rng.choice(members[star])
                if (residual := bad_subtraction(images[other], rng)) is not None:
                    chosen[i], drawn[i] = other, residual
            values = table[chosen]
            unknown = (rng.random(values.shape) < 0.1) | (rng.random((len(values), 1)) < 0.05)
            values = stamp.normalise(np.where(unknown, np.nan, values), wanted)
            changed = augment(drawn, rng) if options.with_images else images[:0]
            return tuple(_taken(options, changed, values)), classes

        def on_epoch_end(self) -> None:
            self.epoch += 1

    return Batches()


def _fit(
    model: Any,
    batches: Any,
    check: tuple[list[Floats], Ints],
    epochs: int,
    options: Options,
    begin: float,
    history: list[dict[str, float]],
) -> None:
    """Train a model until its patience or the time is over; keep the weights with the best validation loss."""

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            history.append({k: float(v) for k, v in (logs or {}).items()})
            if time.monotonic() - begin > 60 * options.minutes:
                self.model.stop_training = True

    stop = keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True)
    model.fit(batches, epochs=epochs, validation_data=check, callbacks=[stop, Clock()], verbose=0, shuffle=False)


# The model file.


class _Graph:
    """Collects the nodes and weights of an ONNX graph; names begin with `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, array: npt.ArrayLike) -> str:
        name = f"{self.prefix}w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, taken: Sequence[str], *, name: str | None = None, **attributes: Any) -> str:
        name = name or f"{self.prefix}n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(taken), [name], **attributes))
        return name

    def integers(self, *values: int) -> str:
        return self.weight(np.array(values, np.int64))

    def dense(self, x: str, layer: Any, *, order: Ints | None = None) -> str:
        kernel, bias = (np.asarray(w) for w in layer.get_weights())
        kernel = kernel if order is None else kernel[order]
        return self.node("Gemm", [x, self.weight(kernel), self.weight(bias)])

    def flipped(self, x: str, axis: int) -> str:
        """Channels-first images mirrored along an axis."""
        return self.node("Slice", [x, *(self.integers(v) for v in (-1, -1000, axis, -1))])

    def turned(self, x: str) -> str:
        """The four rotations of channels-first images, one after the other along the first axis."""
        across = self.flipped(x, 3)
        turns = [
            x,
            self.node("Transpose", [across], perm=[0, 1, 3, 2]),
            self.flipped(across, 2),
            self.node("Transpose", [self.flipped(x, 2)], perm=[0, 1, 3, 2]),
        ]
        return self.node("Concat", turns, axis=0)


def _branch(graph: _Graph, features: Any, name: str) -> str:
    """One branch: convolutions with their normalisation folded in, pooling, dense layer."""
    x, side, filters = graph.turned(name), stamp.CROP, 0
    for layer in features.layers:
        if layer.name.startswith(f"{name}_conv"):
            (kernel,) = layer.get_weights()
            norm = features.get_layer(layer.name.replace("conv", "norm"))
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            filters = len(scale)
            weights = graph.weight((kernel * scale).transpose(3, 2, 0, 1)), graph.weight(beta - mean * scale)
            x = graph.node("Relu", [graph.node("Conv", [x, *weights], pads=[1, 1, 1, 1])])
            number = int(layer.name.removeprefix(f"{name}_conv"))
            if _pooled_after(features, name, number):
                x, side = graph.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), side // 2
    # Keras flattens rows, columns, channels; ONNX channels first.
    order = np.arange(side * side * filters).reshape(side, side, filters).transpose(2, 0, 1).ravel()
    return graph.node(
        "Relu", [graph.dense(graph.node("Flatten", [x]), features.get_layer(f"{name}_dense"), order=order)]
    )


def _pooled_after(features: Any, name: str, number: int) -> bool:
    """Whether the convolution is the last before a pooling: the number of its successor is not the next one."""
    return all(layer.name != f"{name}_conv{number + 1}" for layer in features.layers)


def export_onnx(network: Any, options: Options, wanted: Sequence[Input], version: str) -> bytes:
    """Model file of the Keras model with four rotations: ONNX, with the facts for `StampModel` in its properties."""
    graph = _Graph()
    parts, taken = [], []
    if options.with_images:
        features = network.get_layer("features")
        ends = graph.node("Concat", [_branch(graph, features, name) for name in ("fine", "coarse")], axis=1)
        stacked = graph.node("Reshape", [ends, graph.integers(4, -1, features.output_shape[-1])])
        parts.append(graph.node("ReduceMean", [stacked, graph.integers(0)], keepdims=0))
        shape: list[str | int | None] = ["n", stamp.CHANNELS, stamp.CROP, stamp.CROP]
        taken += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("fine", "coarse")]
    if options.columns:
        parts.append("columns")
        taken.append(helper.make_tensor_value_info("columns", TensorProto.FLOAT, ["n", len(options.columns)]))
    x = parts[0] if len(parts) == 1 else graph.node("Concat", parts, axis=1)
    head = network.get_layer("head")
    for i in range(2):
        x = graph.node("Relu", [graph.dense(x, head.get_layer(f"head_dense{i}"))])
    graph.node("Softmax", [graph.dense(x, head.get_layer("head_out"))], name="probabilities", axis=1)
    given = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(STAMP_CLASSES)])]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "stamp_classifier", taken, given, graph.weights),
        opset_imports=[helper.make_opsetid("", 18)],
        producer_name="alerce_spark",
    )
    model.ir_version = 9
    about = {
        "format": stamp.FORMAT,
        "version": version,
        "classes": json.dumps(STAMP_CLASSES),
        "inputs": json.dumps([[one.name, one.low, one.high, one.fill, one.mean, one.std] for one in wanted]),
        "crop": str(stamp.CROP),
        "knee": str(stamp.KNEE),
    }
    helper.set_model_props(model, about)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


#: Share of the mean variance in the covariances of `with_outliers`.
_SHRINKAGE = 0.02
_JOINED = 5  # nodes from the softmax back to the layer with the input of the head
_AT_ONCE = 256


def with_outliers(
    content: bytes,
    images: Floats,
    table: Floats,
    label: npt.ArrayLike,
    ordinary_images: Floats,
    ordinary_table: Floats,
) -> bytes:
    """The model file with one more output, `outlying` (n, 1); the answers stay bit-identical.

    It is the squared Mahalanobis distance to the nearest class in the input space of the head (pooled features and
    columns), with Gaussians of the labelled images (n, 3, 63, 63) and their normalised columns. Its quantiles among
    ordinary alerts, which were not used for training, go into the properties. In a later layer, or relative to all
    alerts together, it finds odd images less well (trails 0.94 here, 0.82 and 0.14 there).
    """
    model = onnx.load_from_string(content)
    producers = {node.output[0]: node for node in model.graph.node}
    node = producers["probabilities"]
    for _ in range(_JOINED):
        node = producers[node.input[0]]
    joined = node.input[0]
    inside = helper.make_tensor_value_info(joined, TensorProto.FLOAT, ["n", None])
    features = _outputs(_with_output(model, inside), images, table)
    of = np.asarray(label)
    graph = _Graph("outlying_")
    distances = []
    for k in np.unique(of):
        mean, whitening = gaussian(features[of == k], _SHRINKAGE)
        if np.isfinite(mean).all():
            white = graph.node("Gemm", [joined, graph.weight(whitening), graph.weight(-mean @ whitening)])
            distances.append(graph.node("ReduceSumSquare", [white, graph.integers(1)], keepdims=1))
    if not distances:
        return content
    together = graph.node("Concat", distances, axis=1)
    graph.node("ReduceMin", [together, graph.integers(1)], name="outlying", keepdims=1)
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.weights)
    whole = _with_output(model, helper.make_tensor_value_info("outlying", TensorProto.FLOAT, ["n", 1]))
    usual = _outputs(whole, ordinary_images, ordinary_table).ravel()
    levels = np.quantile(usual, (np.arange(LEVELS) + 0.5) / LEVELS).astype(np.float32)
    about = {p.key: p.value for p in whole.metadata_props}
    helper.set_model_props(whole, {**about, "outlier_levels": json.dumps([float(f"{v:.6g}") for v in levels])})
    checker.check_model(whole)
    finished: bytes = whole.SerializeToString()
    return finished


def _with_output(model: Any, output: Any) -> Any:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.output.append(output)
    return copied


def _outputs(model: Any, images: Floats, table: Floats) -> Floats:
    """The last output of a model, of images (n, 3, 63, 63) and normalised columns."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    parts = []
    for begin in range(0, len(images), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        fine, coarse, _ = stamp.views(images[rows])
        feed = {"fine": fine, "coarse": coarse, "columns": table[rows]}
        parts.append(session.run(None, {name: feed[name] for name in names})[-1])
    return np.concatenate(parts)
