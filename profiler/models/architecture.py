"""An architecture: what one family of models has that others have not. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from ...methods.contract.request import Encoder, Segment, Size, VisualSpan
from ...reports.record.kept import Region
from ...reports.record.spec import Layout
from .errors import ModelError
from .shapes import Shape, ShapeError, Text, Vision

if TYPE_CHECKING:
    from .model import Model


class Architecture(ABC):
    """One family of models: its shapes, what pictures become in it, and its adapter.

    name: as reports call it. model_type: as a checkpoint's config.json calls it.
    class_name, image_processor: its classes in transformers; of the latter the one on PIL.
    processor_settings: what its joint processor has the image processor do, whatever its file says.
    image_token_key: where the config names the placeholder of a visual token.
    layouts: how its visual tokens can be laid out.
    compactable: whether positions can be numbered anew behind a pruning; not those of M-RoPE.
    between: text tokens that its chat template puts between pictures.
    bounded: whether a request takes no more positions than its text model is made for: beyond them
    transformers would change its rotary embedding, and with it what comes after.
    flat_config: whether older files hold the keys of the text model beside the sections.
    """

    name: ClassVar[str]
    model_type: ClassVar[str]
    class_name: ClassVar[str]
    image_processor: ClassVar[str]
    processor_settings: ClassVar[dict[str, Any]] = {}
    image_token_key: ClassVar[str] = "image_token_id"
    layouts: ClassVar[tuple[Layout, ...]] = ("flat",)
    compactable: ClassVar[bool] = True
    between: ClassVar[int] = 1
    bounded: ClassVar[bool] = False
    flat_config: ClassVar[bool] = False

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def shapes(self) -> tuple[Shape, ...]:
        """The models of this architecture that are known by name."""

    @abstractmethod
    def micro(self) -> Shape:
        """A model of it that runs in milliseconds: 4 layers in the tower, 8 in the decoder."""

    @abstractmethod
    def config(self, shape: Shape) -> Any:
        """The transformers config of a shape."""

    def as_meant(self, written: dict[str, Any]) -> dict[str, Any]:
        """A config.json as its checkpoint means it, where transformers would read it otherwise."""
        return written

    @abstractmethod
    def shape_from(self, name: str, given: Any, text: Text) -> Shape:
        """The shape that the transformers config of `name` describes, its text model read. Raises
        ModelError for what is not understood."""

    @abstractmethod
    def segments(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> tuple[Segment, ...]:
        """The rectangles of visual tokens that a picture of `size` in pixels becomes. several:
        whether it is one of several in the prompt."""

    @abstractmethod
    def encoder(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> Encoder:
        """The vision tower at work on a picture of `size` in pixels."""

    @property
    def takes_video(self) -> bool:
        """Whether the architecture takes the frames of a video."""
        return type(self).video is not Architecture.video

    def video(self, shape: Shape, frames: int, size: Size) -> tuple[VisualSpan, ...]:
        """The spans of a video of `frames` frames of `size` in pixels, each frame a segment; the
        first has no text before it. Raises ShapeError where the architecture takes no video."""
        raise ShapeError(f"{shape.name} takes no video; give pictures (--image)")

    def video_encoder(self, shape: Shape, frames: int, size: Size) -> Encoder:
        """The vision tower at work on a video."""
        raise ShapeError(f"{shape.name} takes no video; give pictures (--image)")

    def positions(self, segments: tuple[Segment, ...]) -> int:
        """How many positions the visual tokens of a picture take."""
        return sum(segment.tokens for segment in segments)

    def reach(self, shape: Shape, segments: tuple[Segment, ...]) -> int:
        """The same, up to the highest of them: what follows a picture may begin below it."""
        return self.positions(segments)

    @abstractmethod
    def processor_options(self, shape: Shape) -> dict[str, Any]:
        """What the image processor of a shape with random weights is made with."""

    @abstractmethod
    def fitted(self, name: str, shape: Shape, processor: Any) -> Shape:
        """The shape with what its checkpoint's image processor makes of pictures; raises
        ModelError where the two do not fit each other."""

    def fitted_video(self, name: str, shape: Shape, described: dict[str, Any]) -> Shape:
        """The shape with what its checkpoint says of its video processor; raises ModelError where
        the two do not fit each other."""
        return shape

    def regions(
        self, shape: Shape, size: Size, layout: Layout, *, several: bool = False
    ) -> list[Region]:
        """What of a picture each run of its visual tokens covers, as the image processor cuts it.
        several: whether it is one of several in the prompt."""
        return [whole_picture(self.segments(shape, size, layout)[0])]

    @abstractmethod
    def adapter(self) -> type[Model]:
        """The engine's view of a transformers model of this architecture. Imports torch."""


def text_keys(text: Text) -> dict[str, Any]:
    """What the text sections of all transformers configs call the numbers of a decoder."""
    return {
        "vocab_size": text.vocabulary,
        "hidden_size": text.hidden,
        "intermediate_size": text.intermediate,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "max_position_embeddings": text.positions,
    }


def at_work(vision: Vision, tiles: int, crops: Size = (0, 0), *, mergeable: bool) -> Encoder:
    """A tower at work on `tiles` square tiles; see Encoder."""
    return Encoder(
        tiles=tiles,
        patches=vision.side**2,
        layers=vision.layers,
        width=vision.hidden,
        has_cls=vision.class_token,
        mergeable=mergeable,
        last_layer=vision.first_feature,
        heads=vision.heads,
        crops=crops,
    )


def whole_picture(segment: Segment) -> Region:
    """The region of a segment that covers all of the picture."""
    return Region(
        view="picture",
        first=0,
        rows=segment.height,
        columns=segment.width - segment.newline,
        stride=segment.width,
    )


def require_equal(name: str, what: str, given: Any, wanted: Any) -> None:
    """Refuse an image processor that does not fit its config; raises ModelError."""
    if given != wanted:
        raise ModelError(f"{name}: its image processor has {what} {given}, and its config {wanted}")
