"""NAL units: what the packets of an H.264 or HEVC stream hold, without decoding them.

A packet of a recorder may hold parameter sets or messages alone (SPS, PPS, SEI): it is no picture. Units are
marked by start codes (Annex B of the standards) or, in MP4 and Matroska, by their length in front.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from av.video.codeccontext import VideoCodecContext

_H264_IDR = 5
_H264_PICTURES, _HEVC_PICTURES = range(1, 6), range(32)  # types of units with picture data
_HEVC_ENTRIES = range(16, 24)  # IDR, BLA and CRA


@dataclass(frozen=True)
class NalStream:
    """How the units of a stream are written; `of` is None for a codec without such units."""

    hevc: bool
    length_size: int
    """Bytes of the length in front of each unit; 0 if units are marked by start codes."""

    @staticmethod
    def of(codec: VideoCodecContext) -> "NalStream | None":
        """Read it from the codec's headers."""
        if codec.name not in ("h264", "hevc"):
            return None
        extra, hevc = codec.extradata or b"", codec.name == "hevc"
        at = 21 if hevc else 4
        return NalStream(hevc, (extra[at] & 3) + 1 if len(extra) > at and extra[0] == 1 else 0)

    def picture_type(self, packet: bytes) -> int | None:
        """Return the type of a packet's first unit with picture data; None if it has none.

        -1 for what is no row of units: damaged data in a picture's place.
        """
        kind = None
        for kind in self._types(packet):
            if kind in (_HEVC_PICTURES if self.hevc else _H264_PICTURES):
                return kind
        return -1 if kind in (-1, None) else None

    def is_entry(self, kind: int) -> bool:
        """Whether decoding can begin at a picture of this type.

        H.264 files flag recovery points (intra refresh, open groups) as key frames as well.
        """
        return kind in _HEVC_ENTRIES if self.hevc else kind == _H264_IDR

    def _types(self, packet: bytes) -> Iterator[int]:
        """Yield the units' types up to the packet's end, or -1 and no more where no unit can be."""
        stop = 0
        while stop < len(packet):
            if self.length_size:
                start = stop + self.length_size
                length = int.from_bytes(packet[stop:start], "big")
                stop = start + length
            else:
                start = packet.find(b"\0\0\1", stop) + 3
                if start < 3:
                    return
                length, stop = 1, start
            if length == 0 or start >= len(packet) or stop > len(packet) or packet[start] & 0x80:
                yield -1
                return
            yield packet[start] >> 1 & 63 if self.hevc else packet[start] & 31
