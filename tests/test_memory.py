"""Memory that must not grow; benchmarks/memory.py measures hours of video and 100,000 rows."""

from conftest import python

from benchmarks.memory import in_a_process, write_long_video

READ = """
import resource, sys
from vadclip.video.frame_reader import FrameReader
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
with FrameReader(sys.argv[1], decoder=sys.argv[2], intact=True) as reader:
    for batch in reader.read(range(8, reader.index.num_frames, 16), batch_frames=64):
        pass
print(reader.index.num_frames, reader.decoder, peak() - before)
"""


def growth_mb(path, decoder):
    """Read every 16th frame in a process of its own: frames, the decoder used, MB at the peak."""
    frames, used, peak = python("-c", READ, path, decoder).stdout.split()
    return int(frames), used, float(peak)


def test_a_reader_takes_no_more_memory_for_a_longer_video(tmp_path):
    """Decoded, the short one is 170 MB and the long one 690 MB."""
    short = write_long_video(tmp_path / "short.mp4", 2, size=(160, 120))
    long = write_long_video(tmp_path / "long.mp4", 8, size=(160, 120))
    assert growth_mb(short, "decord")[:2] == (3000, "decord")
    frames, used, peak = growth_mb(long, "decord")
    assert (frames, used) == (12000, "pyav")
    assert peak < growth_mb(short, "pyav")[2] + 60


def test_a_driver_takes_no_more_memory_for_more_videos():
    """While all were held they took 6 kB each, 96 MB here; what is in hand now is a few shards of either."""
    few, many = (in_a_process("driver", f"{count}, in_this_process") for count in (4_000, 20_000))
    assert many["peak"] < few["peak"] + 40
