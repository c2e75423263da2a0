"""Codecs: what rounding costs, what stays bit for bit, and what a value takes."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
import zstandard

from phasewatch.errors import InvalidInput
from phasewatch.storage.codecs import (
    BLOCK_TOKENS,
    CODECS,
    DEFAULT_CODEC,
    EXACT_CODEC,
    FloatArray,
    array_sha256,
    decode_block,
    encode_blocks,
    pack,
    round_mantissa,
    unpack,
)

MAX = np.finfo(np.float32).max
SMALLEST_NORMAL = np.finfo(np.float32).tiny
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, MAX, -MAX, SMALLEST_NORMAL, 1e-45, -1e-45, 1e-40, 1.0, 2 - 2**-23], np.float32
)


def realistic_losses(n_values: int, seed: int = 0) -> FloatArray:
    """Losses as a small model has them: mostly 0 to 8 nats, many near 0."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.gamma(1.2, 2.0, n_values) + rng.normal(0, 0.3, n_values)).astype(np.float32)


def every_exponent() -> FloatArray:
    """Finite floats of every exponent and both signs."""
    bits = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = np.frombuffer(bits.tobytes(), np.float32)
    return values[np.isfinite(values)]


def rounded_by_arithmetic(values: FloatArray) -> FloatArray:
    """12 mantissa bits, ties to even, computed in float64 without looking at any bit."""
    exact = values.astype(np.float64)
    _, exponent = np.frexp(exact)
    unit = np.ldexp(1.0, np.maximum(exponent - 13, -138))  # below 2**-126 the spacing of float32 stays the same
    with np.errstate(over="ignore"):
        return np.asarray(np.rint(exact / unit) * unit, np.float32)


def round_trip(values: FloatArray, codec: str) -> FloatArray:
    return np.concatenate([decode_block(payload, codec) for payload in encode_blocks(values, codec)])


class TestRounding:
    def test_agrees_with_rounding_in_arithmetic(self) -> None:
        values = every_exponent()
        expected = rounded_by_arithmetic(values)
        kept = np.isfinite(expected)
        assert kept.mean() > 0.99
        np.testing.assert_array_equal(round_mantissa(values)[kept], expected[kept])

    def test_ties_go_to_the_even_neighbour(self) -> None:
        below, above = 1 + 2**-13, 1 + 3 * 2**-13
        np.testing.assert_array_equal(round_mantissa(np.array([below, above], np.float32)), [1.0, 1 + 4 * 2**-13])

    def test_relative_error_is_at_most_1_3e_4(self) -> None:
        values = np.concatenate([every_exponent(), SPECIAL, np.nextafter(MAX, 0, dtype=np.float32)[None]])
        values = values[np.isfinite(values) & (np.abs(values) >= SMALLEST_NORMAL)].astype(np.float64)
        error = np.abs(round_mantissa(values.astype(np.float32)).astype(np.float64) - values) / np.abs(values)
        assert error.max() <= 2.0**-13
        assert error.max() > 1.2e-4

    def test_denormals_lose_at_most_half_a_step_of_their_own(self) -> None:
        values = np.arange(0, 2**23, 101, dtype=np.uint32).view(np.float32).astype(np.float64)
        error = np.abs(round_mantissa(values.astype(np.float32)).astype(np.float64) - values)
        assert error.max() <= 2.0**-139

    def test_no_finite_value_becomes_infinite(self) -> None:
        largest = np.linspace(MAX * 0.999, MAX, 10_000, dtype=np.float32)
        for values in (largest, -largest):
            assert np.isfinite(round_mantissa(values)).all()

    def test_what_is_not_finite_stays(self) -> None:
        rounded = round_mantissa(SPECIAL)
        np.testing.assert_array_equal(np.isnan(rounded), np.isnan(SPECIAL))
        np.testing.assert_array_equal(np.isposinf(rounded), np.isposinf(SPECIAL))
        np.testing.assert_array_equal(np.isneginf(rounded), np.isneginf(SPECIAL))

    def test_the_sign_of_zero_stays(self) -> None:
        assert np.signbit(round_mantissa(np.array([0.0, -0.0], np.float32))).tolist() == [False, True]

    def test_rounding_twice_is_rounding_once(self) -> None:
        once = round_mantissa(every_exponent())
        np.testing.assert_array_equal(round_mantissa(once), once)

    def test_the_argument_is_not_changed(self) -> None:
        values = realistic_losses(100)
        copy = values.copy()
        round_mantissa(values)
        np.testing.assert_array_equal(values, copy)


class TestBlocks:
    @pytest.mark.parametrize("n_values", [1, 8_191, 8_192, 8_193, 3 * 8_192, 20_000])
    @pytest.mark.parametrize("codec", CODECS)
    def test_blocks_hold_8192_tokens_each_and_the_last_the_rest(self, n_values: int, codec: str) -> None:
        sizes = [decode_block(payload, codec).size for payload in encode_blocks(realistic_losses(n_values), codec)]
        assert sum(sizes) == n_values
        assert all(size == BLOCK_TOKENS for size in sizes[:-1])
        assert 0 < sizes[-1] <= BLOCK_TOKENS

    def test_exact_codec_keeps_every_bit(self) -> None:
        bits = np.random.default_rng(2).integers(0, 2**32, 20_000, dtype=np.uint32)
        found = round_trip(bits.view(np.float32), EXACT_CODEC)
        np.testing.assert_array_equal(found.view(np.uint32), bits)

    def test_default_codec_keeps_the_rounded_values_bit_for_bit(self) -> None:
        values = np.concatenate([realistic_losses(10_000), SPECIAL])
        found = round_trip(values, DEFAULT_CODEC)
        np.testing.assert_array_equal(found.view(np.uint32), round_mantissa(values).view(np.uint32))

    def test_default_payload_is_zstd_of_bytes_by_significance(self) -> None:
        values = np.array([1.0, 2.5, -3.0], np.float32)
        (payload,) = encode_blocks(values, DEFAULT_CODEC)
        by_value = struct.pack("<3f", *values.tolist())
        assert zstandard.ZstdDecompressor().decompress(payload) == b"".join(by_value[byte::4] for byte in range(4))

    def test_exact_payload_is_zstd_of_little_endian_floats(self) -> None:
        values = np.array([1.0, 2.5, -3.0], np.float32)
        (payload,) = encode_blocks(values, EXACT_CODEC)
        assert zstandard.ZstdDecompressor().decompress(payload) == struct.pack("<3f", *values.tolist())

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize(
        "form",
        [
            pytest.param(lambda values: values.astype(">f4"), id="big-endian"),
            pytest.param(lambda values: np.stack([values, values], 1)[:, 0], id="strided"),
            pytest.param(lambda values: values.reshape(4, -1), id="two-dimensional"),
        ],
    )
    def test_memory_layout_does_not_matter(self, codec: str, form: object) -> None:
        values = realistic_losses(1_000)
        given = form(values)  # type: ignore[operator]
        assert list(encode_blocks(given, codec)) == list(encode_blocks(values, codec))

    @pytest.mark.parametrize(("codec", "most"), [(DEFAULT_CODEC, 2.5), (EXACT_CODEC, 3.7)])
    def test_bytes_a_value(self, codec: str, most: float) -> None:
        values = realistic_losses(40 * BLOCK_TOKENS)
        size = sum(map(len, encode_blocks(values, codec))) / values.size
        assert most - 0.8 < size < most

    def test_an_unknown_codec_is_refused_by_name(self) -> None:
        with pytest.raises(InvalidInput, match="'float8' is not known; use one of float32r12-shuffle-zstd"):
            list(encode_blocks(realistic_losses(10), "float8"))
        with pytest.raises(InvalidInput, match="'float8' is not known"):
            decode_block(next(encode_blocks(realistic_losses(10))), "float8")


class TestIdentity:
    def test_hash_is_of_the_little_endian_float32_bytes(self) -> None:
        values = [1.0, 2.5, -3.0]
        expected = hashlib.sha256(struct.pack("<3f", *values)).hexdigest()
        assert array_sha256(np.array(values, np.float32)) == expected
        assert array_sha256(np.array(values, ">f4")) == expected
        assert array_sha256(np.array(values, np.float64)) == expected

    def test_zeros_of_different_sign_are_different(self) -> None:
        assert array_sha256(np.array([0.0], np.float32)) != array_sha256(np.array([-0.0], np.float32))


class TestPack:
    @pytest.mark.parametrize("dtype", ["<f8", "<i4"])
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
    def test_round_trip(self, dtype: str, shape: tuple[int, ...]) -> None:
        values = np.random.default_rng(3).integers(-100, 100, shape).astype(dtype)
        np.testing.assert_array_equal(unpack(pack(values, dtype), dtype, shape), values)

    def test_values_that_are_not_finite_stay(self) -> None:
        values = np.array([np.nan, np.inf, -np.inf, -0.0])
        assert unpack(pack(values, "<f8"), "<f8").tobytes() == values.tobytes()
