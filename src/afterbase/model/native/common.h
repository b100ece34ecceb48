// What the kernels share: the two kinds of numbers, exponentials, and the threads.

#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
extern "C" int omp_get_max_threads();
extern "C" int omp_get_thread_num();
#else
static int omp_get_max_threads() { return 1; }
static int omp_get_thread_num() { return 0; }
#endif

typedef int64_t i64;
struct bf16 { uint16_t bits; };

static inline float up(float x) { return x; }
static inline float up(bf16 x) {
    uint32_t bits = (uint32_t)x.bits << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void put(float *to, float x) { *to = x; }
// To nearest, ties to even. A NaN stays one: those that arithmetic makes have few low bits set, so nothing is carried out of them.
static inline void put(bf16 *to, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    to->bits = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x as 2^turns 2^part, relative error below 1e-6 where it matters; written out because the C library's does not vectorize.
static inline float exponential(float x) {
    x = -87.0f > x ? -87.0f : x;  // this way around a NaN goes through
    x = 88.0f < x ? 88.0f : x;
    float turns = rintf(x * 1.44269504f), part = x * 1.44269504f - turns;
    float p = 1.54035304e-4f;  // ln(2)^k / k!
    p = p * part + 1.33335581e-3f;
    p = p * part + 9.61812911e-3f;
    p = p * part + 5.55041087e-2f;
    p = p * part + 2.40226507e-1f;
    p = p * part + 6.93147181e-1f;
    p = p * part + 1.0f;
    int32_t power = ((int32_t)turns + 127) << 23;
    float scale;
    memcpy(&scale, &power, 4);
    return p * scale;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// Probabilities of scale * scores, in place. Whole vectors are faster than their remainder: what lies behind counts for nothing.
static inline void softmax(i64 length, float scale, float *scores) {
    i64 padded = (length + 15) / 16 * 16;
    for (i64 t = length; t < padded; t++) scores[t] = -INFINITY;
    float top = scores[0], sum = 0;
#pragma omp simd reduction(max : top)
    for (i64 t = 0; t < padded; t++) top = scores[t] > top ? scores[t] : top;
#pragma omp simd reduction(+ : sum)
    for (i64 t = 0; t < padded; t++) {
        scores[t] = exponential((scores[t] - top) * scale);  // of the padding: 1e-38
        sum += scores[t];
    }
    float inverse = 1.0f / sum;
#pragma omp simd
    for (i64 t = 0; t < padded; t++) scores[t] *= inverse;
}

// Kinds are 0 for float, 1 for bfloat16.
#define BY_KIND(kind, call) \
    if (kind) { typedef bf16 T; call; } else { typedef float T; call; }
