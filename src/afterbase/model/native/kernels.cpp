// The passes between two matrix products, each as one trip through memory. Plain C++, no headers beyond libc, vectorized by the compiler.
//
// T is how matrix products see numbers: float, or bfloat16. Sums, norms, softmaxes and rotations are in float throughout.
// Rows are independent and each is handled by one thread in a fixed order, so results do not depend on how threads are scheduled;
// only `norm_backward`'s weight gradient is a sum over rows, taken thread by thread.

#include "common.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

// sum += delta (when there is one), then out = sum / rms(sum) * weight.  [n d]
template <class D, class T>
static void add_norm(i64 n, i64 d, const float *x, const D *delta, const float *weight, float eps, float *sum, float *inverse, T *out) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < n; row++) {
        const float *in = x + row * d;
        float *total = sum + row * d, square = 0;
        if (delta) {
#pragma omp simd reduction(+ : square)
            for (i64 i = 0; i < d; i++) {
                float value = in[i] + up(delta[row * d + i]);
                total[i] = value;
                square += value * value;
            }
        } else {
#pragma omp simd reduction(+ : square)
            for (i64 i = 0; i < d; i++) square += in[i] * in[i];
            total = (float *)in;
        }
        float scale = 1.0f / sqrtf(square / d + eps);
        if (inverse) inverse[row] = scale;
#pragma omp simd
        for (i64 i = 0; i < d; i++) put(out + row * d + i, total[i] * scale * weight[i]);
    }
}

// dx = from_sum + (g w - x <g w, x> inverse^2 / d) inverse; the same again as the addend's gradient; dw summed over rows.
template <class D, class T>
static void norm_backward(i64 n, i64 d, const T *gradient, const float *from_sum, const float *x, const float *weight,
                          const float *inverse, float *dx, D *ddelta, float *dweight) {
    int threads = omp_get_max_threads();
    float *partial = (float *)calloc((size_t)threads * d, sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *mine = partial + omp_get_thread_num() * d;
#pragma omp for schedule(static)
        for (i64 row = 0; row < n; row++) {
            const T *g = gradient + row * d;
            const float *in = x + row * d;
            float scale = inverse[row], dot = 0;
#pragma omp simd reduction(+ : dot)
            for (i64 i = 0; i < d; i++) {
                float product = up(g[i]) * in[i];
                dot += product * weight[i];
                mine[i] += product * scale;
            }
            float shared = dot * scale * scale * scale / d;
#pragma omp simd
            for (i64 i = 0; i < d; i++) {
                float value = up(g[i]) * weight[i] * scale - in[i] * shared;
                if (from_sum) value += from_sum[row * d + i];
                dx[row * d + i] = value;
                if (ddelta) put(ddelta + row * d + i, value);
            }
        }
    }
    for (i64 i = 0; i < d; i++) {
        float total = 0;
        for (int t = 0; t < threads; t++) total += partial[t * d + i];
        dweight[i] = total;
    }
    free(partial);
}

// out = silu(gate) * up.  Rows of gate and up may lie `stride` apart, as the halves of one product do.
template <class T>
static void swiglu(i64 n, i64 d, i64 stride, const T *gate, const T *raised, T *out) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < n; row++) {
        const T *a = gate + row * stride, *b = raised + row * stride;
#pragma omp simd
        for (i64 i = 0; i < d; i++) {
            float x = up(a[i]);
            put(out + row * d + i, x * sigmoid(x) * up(b[i]));
        }
    }
}

template <class T>
static void swiglu_backward(i64 n, i64 d, i64 stride, const T *gradient, const T *gate, const T *raised, T *dgate, T *draised) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < n; row++) {
        const T *g = gradient + row * d, *a = gate + row * stride, *b = raised + row * stride;
#pragma omp simd
        for (i64 i = 0; i < d; i++) {
            float x = up(a[i]), s = sigmoid(x), out = up(g[i]);
            put(dgate + row * d + i, out * up(b[i]) * s * (1.0f + x * (1.0f - s)));
            put(draised + row * d + i, out * x * s);
        }
    }
}

// Each head's pairs turned by its token's angle; sign -1 turns back. Pairs are halves, or neighbours when `interleaved` (they come out
// as halves; turning back goes from halves to neighbours).  x [n heads width] with rows and heads at any stride, out dense.
template <class T>
static void rotate(i64 n, i64 heads, i64 half, i64 row_stride, i64 head_stride, const T *x, const float *cosine,
                   const float *sine, float sign, int interleaved, T *out) {
    i64 in = interleaved && sign > 0 ? 2 : 1, to = interleaved && sign < 0 ? 2 : 1;
    i64 in_gap = in == 2 ? 1 : half, to_gap = to == 2 ? 1 : half;
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < n; row++) {
        const float *c = cosine + row * half, *s = sine + row * half;
        for (i64 head = 0; head < heads; head++) {
            const T *from = x + row * row_stride + head * head_stride;
            T *into = out + (row * heads + head) * 2 * half;
#pragma omp simd
            for (i64 i = 0; i < half; i++) {
                float a = up(from[i * in]), b = up(from[i * in + in_gap]);
                put(into + i * to, a * c[i] - sign * b * s[i]);
                put(into + i * to + to_gap, b * c[i] + sign * a * s[i]);
            }
        }
    }
}

enum { MOST = 1024 };  // widest head

// One head of one row: normalize when the family does, turn, and round as a matrix product would see it.
template <int WIDTH, class T>
static inline void prepare(i64 width, const T *x, const float *norm, float eps, const float *c, const float *s, T *out) {
    float buffer[WIDTH ? WIDTH : MOST], square = 0;
    const i64 count = WIDTH ? WIDTH : width, half = count / 2;
    for (i64 i = 0; i < count; i++) buffer[i] = up(x[i]);
    if (norm) {
        for (i64 i = 0; i < count; i++) square += buffer[i] * buffer[i];
        float scale = 1.0f / sqrtf(square / count + eps);
        for (i64 i = 0; i < count; i++) buffer[i] *= scale * norm[i];
    }
#pragma omp simd
    for (i64 i = 0; i < half; i++) {
        put(out + i, buffer[i] * c[i] - buffer[i + half] * s[i]);
        put(out + i + half, buffer[i + half] * c[i] + buffer[i] * s[i]);
    }
}

// Two queries at a time against every key, so that each key is read once.  queries [2 width], scores [2 stride]
template <int WIDTH, class T>
static inline void compare(i64 width, i64 length, i64 stride, const T *queries, const T *keys, float *scores) {
    const i64 count = WIDTH ? WIDTH : width;
    float wide[2 * (WIDTH ? WIDTH : MOST)];
    for (i64 i = 0; i < 2 * count; i++) wide[i] = up(queries[i]);
    for (i64 t = 0; t < length; t++) {
        float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
        for (i64 i = 0; i < count; i++) {
            float key = up(keys[t * count + i]);
            a += wide[i] * key;
            b += wide[count + i] * key;
        }
        scores[t] = a;
        scores[stride + t] = b;
    }
}

#ifdef __AVX512BF16__  // where the processor multiplies pairs of bfloat16, keys need no widening
template <int WIDTH>
static inline void compare(i64 width, i64 length, i64 stride, const bf16 *queries, const bf16 *keys, float *scores) {
    if (!WIDTH) return compare<WIDTH, bf16>(width, length, stride, queries, keys, scores);
    __m512bh first[WIDTH / 32 + 1], second[WIDTH / 32 + 1];
    for (int i = 0; i < WIDTH / 32; i++) {
        first[i] = (__m512bh)_mm512_loadu_si512(queries + 32 * i);
        second[i] = (__m512bh)_mm512_loadu_si512(queries + WIDTH + 32 * i);
    }
    for (i64 t = 0; t < length; t++) {
        __m512 a = _mm512_setzero_ps(), b = _mm512_setzero_ps();
        for (int i = 0; i < WIDTH / 32; i++) {
            __m512bh key = (__m512bh)_mm512_loadu_si512(keys + t * WIDTH + 32 * i);
            a = _mm512_dpbf16_ps(a, first[i], key);
            b = _mm512_dpbf16_ps(b, second[i], key);
        }
        scores[t] = _mm512_reduce_add_ps(a);
        scores[stride + t] = _mm512_reduce_add_ps(b);
    }
}
#endif

// The same two's weighted sums of the values.  out [2 width]
template <class T, int WIDTH>
static inline void mix(i64 width, i64 length, i64 stride, const float *weights, const T *values, float *out) {
    const i64 count = WIDTH ? WIDTH : width;
    float sums[2 * (WIDTH ? WIDTH : MOST)];
    for (i64 i = 0; i < 2 * count; i++) sums[i] = 0;
    for (i64 t = 0; t < length; t++) {
        float a = weights[t], b = weights[stride + t];
#pragma omp simd
        for (i64 i = 0; i < count; i++) {
            float value = up(values[t * count + i]);
            sums[i] += a * value;
            sums[count + i] += b * value;
        }
    }
    memcpy(out, sums, 2 * count * sizeof(float));
}

// One decoding step of grouped-query attention: turn this token's query and key, remember key and value, attend to the row's memory.
// qkv [n (hq + 2 hk) width]; memories [rows hk room width]; out [n hq width].
template <class T, int WIDTH>
static void decode_heads(i64 n, i64 hq, i64 hk, i64 width, i64 room, const T *qkv, const float *q_norm,
                         const float *k_norm, float eps, const float *cosine, const float *sine, const i64 *positions, float scale,
                         T *keys, T *values, T *out) {
    i64 share = hq / hk, half = width / 2;
#pragma omp parallel
    {
        i64 stride = (room + 15) / 16 * 16;
        float *scores = (float *)malloc(2 * stride * sizeof(float));
        T queries[2 * MOST];
        float mixed[2 * MOST];
#pragma omp for schedule(static) collapse(2)
        for (i64 row = 0; row < n; row++)
            for (i64 head = 0; head < hk; head++) {
                const T *heads = qkv + row * (hq + 2 * hk) * width;
                const float *c = cosine + row * half, *s = sine + row * half;
                i64 place = positions[row], length = place + 1;
                T *memory = keys + (row * hk + head) * room * width, *kept = values + (row * hk + head) * room * width;
                prepare<WIDTH>(width, heads + (hq + head) * width, k_norm, eps, c, s, memory + place * width);
                memcpy(kept + place * width, heads + (hq + hk + head) * width, width * sizeof(T));
                // Rows lie far apart, so the hardware sees each one's beginning too late: ask for the next one's now.
                for (i64 byte = 0; byte < length * width * (i64)sizeof(T); byte += 64) {
                    __builtin_prefetch((const char *)(memory + room * width) + byte);
                    __builtin_prefetch((const char *)(kept + room * width) + byte);
                }
                for (i64 q = head * share; q < (head + 1) * share; q += 2) {
                    i64 pair = q + 1 < (head + 1) * share ? 2 : 1;  // an odd one out is its own partner
                    for (i64 k = 0; k < 2; k++)
                        prepare<WIDTH>(width, heads + (q + k % pair) * width, q_norm, eps, c, s, queries + k * width);
                    compare<WIDTH>(width, length, stride, queries, memory, scores);
                    softmax(length, scale, scores);
                    softmax(length, scale, scores + stride);
                    mix<T, WIDTH>(width, length, stride, scores, kept, mixed);
                    for (i64 i = 0; i < pair * width; i++) put(out + (row * hq + q) * width + i, mixed[i]);
                }
            }
        free(scores);
    }
}

template <class T>
static void decode_attention(i64 n, i64 hq, i64 hk, i64 width, i64 room, const T *qkv, const float *q_norm,
                             const float *k_norm, float eps, const float *cosine, const float *sine, const i64 *positions, float scale,
                             T *keys, T *values, T *out) {
    auto heads = width == 128 ? decode_heads<T, 128> : width == 64 ? decode_heads<T, 64>
               : width == 32 ? decode_heads<T, 32> : decode_heads<T, 0>;
    heads(n, hq, hk, width, room, qkv, q_norm, k_norm, eps, cosine, sine, positions, scale, keys, values, out);
}

// SplitMix64's finalizer; `engine/draw.py` has the same in torch.
static inline uint64_t mixed_bits(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// One token per row by inverting the cumulative distribution at the row's own random number, and its log-probability.
// logits [n vocabulary]; the number is the counts[row]-th of the stream keys[row]
template <class T>
static void draw(i64 n, i64 vocabulary, const T *logits, const float *temperature, const i64 *keys, const i64 *counts,
                 i64 *tokens, float *logprobs) {
#pragma omp parallel
    {
        float *scaled = (float *)malloc(2 * vocabulary * sizeof(float)), *weights = scaled + vocabulary;
#pragma omp for schedule(static)
        for (i64 row = 0; row < n; row++) {
            const T *from = logits + row * vocabulary;
            float top = -INFINITY;
#pragma omp simd reduction(max : top)
            for (i64 i = 0; i < vocabulary; i++) {
                scaled[i] = up(from[i]) / temperature[row];
                top = scaled[i] > top ? scaled[i] : top;
            }
#pragma omp simd
            for (i64 i = 0; i < vocabulary; i++)  // the impossible stays impossible
                weights[i] = scaled[i] == -INFINITY ? 0.0f : exponential(scaled[i] - top);
            double total = 0, passed = 0;
#pragma omp simd reduction(+ : total)
            for (i64 i = 0; i < vocabulary; i++) total += weights[i];
            double uniform = (double)(mixed_bits(keys[row] + (uint64_t)(counts[row] + 1) * 0x9E3779B97F4A7C15ull) >> 11) * 0x1p-53;
            i64 token = -1, last = 0;
            for (i64 i = 0; i < vocabulary && token < 0; i++) {
                passed += weights[i];
                if (weights[i] > 0) last = i;
                if (passed > uniform * total) token = i;
            }
            if (token < 0) token = last;  // rounding put the threshold at the end or past it
            tokens[row] = token;
            logprobs[row] = scaled[token] - top - (float)log(total);
        }
        free(scaled);
    }
}

// What Python calls; signatures stand in native/__init__.py as well.
extern "C" {
void native_add_norm(i64 kind, i64 delta_kind, i64 n, i64 d, const float *x, const void *delta, const float *weight, float eps, float *sum,
                     float *inverse, void *out) {
    if (delta_kind) { BY_KIND(kind, add_norm(n, d, x, (const bf16 *)delta, weight, eps, sum, inverse, (T *)out)) }
    else { BY_KIND(kind, add_norm(n, d, x, (const float *)delta, weight, eps, sum, inverse, (T *)out)) }
}
void native_norm_backward(i64 kind, i64 delta_kind, i64 n, i64 d, const void *gradient, const float *from_sum, const float *x,
                          const float *weight, const float *inverse, float *dx, void *ddelta, float *dweight) {
    if (delta_kind) { BY_KIND(kind, norm_backward(n, d, (const T *)gradient, from_sum, x, weight, inverse, dx, (bf16 *)ddelta, dweight)) }
    else { BY_KIND(kind, norm_backward(n, d, (const T *)gradient, from_sum, x, weight, inverse, dx, (float *)ddelta, dweight)) }
}
void native_swiglu(i64 kind, i64 n, i64 d, i64 stride, const void *gate, const void *raised, void *out) {
    BY_KIND(kind, swiglu(n, d, stride, (const T *)gate, (const T *)raised, (T *)out))
}
void native_swiglu_backward(i64 kind, i64 n, i64 d, i64 stride, const void *gradient, const void *gate, const void *raised, void *dgate,
                            void *draised) {
    BY_KIND(kind, swiglu_backward(n, d, stride, (const T *)gradient, (const T *)gate, (const T *)raised, (T *)dgate, (T *)draised))
}
void native_rotate(i64 kind, i64 n, i64 heads, i64 half, i64 row_stride, i64 head_stride, const void *x, const float *cosine,
                   const float *sine, float sign, i64 interleaved, void *out) {
    BY_KIND(kind, rotate(n, heads, half, row_stride, head_stride, (const T *)x, cosine, sine, sign, interleaved, (T *)out))
}
void native_decode_attention(i64 kind, i64 n, i64 hq, i64 hk, i64 width, i64 room, const void *qkv, const float *q_norm,
                             const float *k_norm, float eps, const float *cosine, const float *sine, const i64 *positions, float scale, void *keys, void *values,
                             void *out) {
    BY_KIND(kind, decode_attention(n, hq, hk, width, room, (const T *)qkv, q_norm, k_norm, eps, cosine, sine, positions, scale, (T *)keys,
                                   (T *)values, (T *)out))
}
void native_draw(i64 kind, i64 n, i64 vocabulary, const void *logits, const float *temperature, const i64 *keys, const i64 *counts,
                 i64 *tokens, float *logprobs) {
    BY_KIND(kind, draw(n, vocabulary, (const T *)logits, temperature, keys, counts, tokens, logprobs))
}
}
