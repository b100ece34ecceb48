// One decoding step of latent attention, and of a layer of experts. Between them stand only products that all rows share.
//
// The products inside are small ones of many: some rows of floats times a matrix, in blocks that stay in registers. A row's sums run over
// the depth in order, whatever shares its block, so that a request's numbers do not depend on its neighbours.

#include "common.h"

// Sixteen numbers, wherever they begin; a compiler for narrower processors makes several instructions of each operation.
typedef float v16 __attribute__((vector_size(64)));
typedef float floats16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t words16 __attribute__((vector_size(64)));
typedef uint16_t halves16 __attribute__((vector_size(32), aligned(2), may_alias));

static inline v16 load(const float *from) { return *(const floats16 *)from; }
static inline v16 load(const bf16 *from) { return (v16)(__builtin_convertvector(*(const halves16 *)from, words16) << 16); }

enum { WIDE = 32, TALL = 8, TILE = 32 };  // columns and rows of a block in registers; copies of tokens that are one thread's at a time

// ROWS rows of x [. depth] times 32 columns of w [depth .]
template <int ROWS, class W>
static inline void block(i64 depth, const float *x, i64 x_stride, const W *w, i64 w_stride, float *out, i64 out_stride) {
    v16 left[ROWS] = {}, right[ROWS] = {};
    for (i64 k = 0; k < depth; k++) {
        v16 a = load(w + k * w_stride), b = load(w + k * w_stride + 16);
        for (int r = 0; r < ROWS; r++) {
            left[r] += x[r * x_stride + k] * a;
            right[r] += x[r * x_stride + k] * b;
        }
    }
    for (int r = 0; r < ROWS; r++) {
        *(floats16 *)(out + r * out_stride) = left[r];
        *(floats16 *)(out + r * out_stride + 16) = right[r];
    }
}

// x [rows depth] times w [depth columns], each with a stride of its own.
template <class W>
static inline void multiply(i64 rows, i64 depth, i64 columns, const float *x, i64 x_stride, const W *w, i64 w_stride, float *out,
                            i64 out_stride) {
    i64 column = 0;
    for (; column + WIDE <= columns; column += WIDE) {
        i64 row = 0;
        for (; row + TALL <= rows; row += TALL)
            block<TALL>(depth, x + row * x_stride, x_stride, w + column, w_stride, out + row * out_stride + column, out_stride);
        for (; row + 4 <= rows; row += 4)
            block<4>(depth, x + row * x_stride, x_stride, w + column, w_stride, out + row * out_stride + column, out_stride);
        for (; row < rows; row++)
            block<1>(depth, x + row * x_stride, x_stride, w + column, w_stride, out + row * out_stride + column, out_stride);
    }
    if (column == columns) return;
    i64 rest = columns - column;
    for (i64 row = 0; row < rows; row++) {
        float sums[WIDE] = {};
        for (i64 k = 0; k < depth; k++) {
            float value = x[row * x_stride + k];
#pragma omp simd
            for (i64 i = 0; i < rest; i++) sums[i] += value * up(w[k * w_stride + column + i]);
        }
        memcpy(out + row * out_stride + column, sums, rest * sizeof(float));
    }
}

// Each query of a row against each key: they all share the keys, so four queries read one at a time.
// queries [heads width], keys [length width], scores [heads stride]
template <class T>
static inline void compare(i64 heads, i64 width, i64 length, i64 stride, const float *queries, const T *keys, float *scores) {
    i64 whole = width / 16 * 16;
    for (i64 first = 0; first < heads; first += 4) {
        const float *asked[4];
        float *found[4];
        for (i64 q = 0; q < 4; q++) {  // the last one stands in for those that are not there
            i64 head = first + q < heads ? first + q : heads - 1;
            asked[q] = queries + head * width;
            found[q] = scores + head * stride;
        }
        for (i64 t = 0; t < length; t++) {
            const T *key = keys + t * width;
            v16 sums[4] = {};
            for (i64 i = 0; i < whole; i += 16) {
                v16 part = load(key + i);
                for (int q = 0; q < 4; q++) sums[q] += load(asked[q] + i) * part;
            }
            for (int q = 0; q < 4; q++) {
                float sum = 0;
                for (int i = 0; i < 16; i++) sum += sums[q][i];
                for (i64 i = whole; i < width; i++) sum += asked[q][i] * up(key[i]);
                found[q][t] = sum;
            }
        }
    }
}

// A part turned by its token's angles; neighbours that are a pair come out as halves.
template <class T, class O>
static inline void turn(i64 half, int interleaved, const T *x, const float *cosine, const float *sine, O *out) {
    i64 step = interleaved ? 2 : 1, gap = interleaved ? 1 : half;
    for (i64 i = 0; i < half; i++) {
        float a = up(x[i * step]), b = up(x[i * step + gap]);
        put(out + i, a * cosine[i] - b * sine[i]);
        put(out + half + i, b * cosine[i] + a * sine[i]);
    }
}

// The latent normalized and the shared key turned: what is remembered of a token.
template <class T>
static inline void remember(i64 rank, i64 half, int interleaved, const T *latent, const float *norm, float eps, const float *cosine,
                            const float *sine, T *place) {
    float square = 0;
    for (i64 i = 0; i < rank; i++) square += up(latent[i]) * up(latent[i]);
    float scale = 1.0f / sqrtf(square / rank + eps);
    for (i64 i = 0; i < rank; i++) put(place + i, up(latent[i]) * scale * norm[i]);
    turn(half, interleaved, latent + rank, cosine, sine, place + rank);
}

// One decoding step of latent attention in its absorbed form: W^UK moves into the queries and W^UV behind the sum.  [V3 Eq. 1-11]
// queries [n heads (nope + rope)] and latents [n (rank + rope)] at strides of their own; up_key [heads nope rank],
// up_value [heads rank value]; memory [rows room (rank + rope)]; out [n heads value]
template <class T>
static void decode_latents(i64 n, i64 heads, i64 nope, i64 rope, i64 rank, i64 value, i64 room, i64 query_stride, i64 latent_stride,
                           int interleaved, const T *queries, const T *latents, const float *norm, float eps, const float *cosine,
                           const float *sine, const i64 *positions, float scale, const T *up_key, const T *up_value, T *memory, T *out) {
    i64 width = rank + rope, half = rope / 2, stride = (room + 15) / 16 * 16, threads = omp_get_max_threads();
    i64 share = n / threads + 1, tall = share < TALL ? share : TALL;  // few rows: some for every thread
#pragma omp parallel
    {
        float *content = (float *)malloc((tall * heads * (nope + width + rank + value) + heads * stride) * sizeof(float));
        float *asked = content + tall * heads * nope, *mixed = asked + tall * heads * width, *raised = mixed + tall * heads * rank;
        float *scores = raised + tall * heads * value;
#pragma omp for schedule(static)
        for (i64 first = 0; first < n; first += tall) {
            i64 rows = n - first < tall ? n - first : tall;
            for (i64 r = 0; r < rows; r++) {
                const float *c = cosine + (first + r) * half, *s = sine + (first + r) * half;
                T *place = memory + ((first + r) * room + positions[first + r]) * width;
                remember(rank, half, interleaved, latents + (first + r) * latent_stride, norm, eps, c, s, place);
                for (i64 head = 0; head < heads; head++) {
                    const T *query = queries + (first + r) * query_stride + head * (nope + rope);
                    for (i64 i = 0; i < nope; i++) content[(r * heads + head) * nope + i] = up(query[i]);
                    turn(half, interleaved, query + nope, c, s, asked + (r * heads + head) * width + rank);
                }
            }
            for (i64 head = 0; head < heads; head++)
                multiply(rows, nope, rank, content + head * nope, heads * nope, up_key + head * nope * rank, rank, asked + head * width,
                         heads * width);
            for (i64 r = 0; r < rows; r++) {
                const T *kept = memory + (first + r) * room * width;
                i64 length = positions[first + r] + 1;
                // Rows lie far apart, so the hardware sees each one's beginning too late: ask for the next one's now.
                for (i64 byte = 0; byte < length * width * (i64)sizeof(T); byte += 64)
                    __builtin_prefetch((const char *)(kept + room * width) + byte);
                compare(heads, width, length, stride, asked + r * heads * width, kept, scores);
                for (i64 head = 0; head < heads; head++) softmax(length, scale, scores + head * stride);
                multiply(heads, length, rank, scores, stride, kept, width, mixed + r * heads * rank, rank);
            }
            for (i64 head = 0; head < heads; head++)
                multiply(rows, rank, value, mixed + head * rank, heads * rank, up_value + head * rank * value, value,
                         raised + head * value, heads * value);
            for (i64 i = 0; i < rows * heads * value; i++) put(out + first * heads * value + i, raised[i]);
        }
        free(content);
    }
}

// Whether a score beats the best so far. What is no number beats all, so that it is chosen and stays visible.
static inline int beats(float score, float best) { return score > best || score != score; }

// The K best of one row's experts, of the best groups only, and their gates.  [V3 Eq. 12-16]; scores: room for the experts twice
static void route(i64 experts, i64 chosen_num, i64 groups, i64 kept_groups, int normalized, float scaling, const float *logits,
                  const float *bias, float *scores, i64 *chosen, float *gates) {
    i64 size = experts / groups;
    float *affinities = scores + experts, total = 0;
    for (i64 e = 0; e < experts; e++) {
        affinities[e] = 1.0f / (1.0f + expf(-logits[e]));  // the library's: a choice flips on rounding
        scores[e] = affinities[e] + bias[e];
    }
    for (i64 struck = groups; struck > kept_groups; struck--) {  // strike out the group whose two best add up to least
        i64 worst = -1;
        float least = 0;
        for (i64 g = 0; g < groups; g++) {
            float best = -INFINITY, second = -INFINITY;
            for (i64 e = g * size; e < (g + 1) * size; e++) {
                float score = scores[e];
                if (beats(score, best)) { second = best; best = score; }
                else if (score > second) second = score;
            }
            float sum = size > 1 ? best + second : best;
            if (best != -INFINITY && (worst < 0 || sum <= least)) { worst = g; least = sum; }
        }
        if (worst < 0) break;
        for (i64 e = worst * size; e < (worst + 1) * size; e++) scores[e] = -INFINITY;
    }
    for (i64 k = 0; k < chosen_num; k++) {
        i64 best = 0;
        for (i64 e = 1; e < experts; e++)
            if (beats(scores[e], scores[best])) best = e;
        chosen[k] = best;
        gates[k] = affinities[best];
        total += gates[k];
        scores[best] = -INFINITY;
    }
    for (i64 k = 0; k < chosen_num; k++) gates[k] = (normalized ? gates[k] / (total + 1e-20f) : gates[k]) * scaling;
}

// Each token's chosen experts, gated and added to `out`, which holds the shared ones' already.  [V3 Eq. 12-16]
// x and out [n d]; logits [n experts]; gate_up [experts d (2 inner)], down [experts inner d]: depth first, as blocks read them
template <class T>
static void add_experts(i64 n, i64 d, i64 inner, i64 experts, i64 chosen_num, i64 groups, i64 kept_groups, int normalized, float scaling,
                        const T *x, const float *logits, const float *bias, const T *gate_up, const T *down, T *out) {
    i64 copies = n * chosen_num, *chosen = (i64 *)malloc((2 * copies + experts + 1) * sizeof(i64));
    i64 *order = chosen + copies, *starts = order + copies, most_tiles = copies / TILE + experts, tiles = 0;
    i64 *tile_starts = (i64 *)malloc(3 * most_tiles * sizeof(i64)), *tile_ends = tile_starts + most_tiles, *owners = tile_ends + most_tiles;
    float *gates = (float *)malloc(copies * (d + 1) * sizeof(float)), *parts = gates + copies;
#pragma omp parallel
    {
        float *rows = (float *)malloc((TILE * (2 * d + 2 * inner) + 2 * experts) * sizeof(float));
        float *both = rows + TILE * d, *sums = both + TILE * 2 * inner, *scores = sums + TILE * d;
#pragma omp for schedule(static)
        for (i64 row = 0; row < n; row++)
            route(experts, chosen_num, groups, kept_groups, normalized, scaling, logits + row * experts, bias, scores,
                  chosen + row * chosen_num, gates + row * chosen_num);
#pragma omp single
        {
            memset(starts, 0, (experts + 1) * sizeof(i64));
            for (i64 c = 0; c < copies; c++) starts[chosen[c] + 1]++;
            for (i64 e = 0; e < experts; e++) starts[e + 1] += starts[e];
            for (i64 e = 0; e < experts; e++)
                for (i64 c = starts[e]; c < starts[e + 1]; c += TILE, tiles++) {
                    tile_starts[tiles] = c;
                    tile_ends[tiles] = c + TILE < starts[e + 1] ? c + TILE : starts[e + 1];
                    owners[tiles] = e;
                }
            for (i64 c = 0; c < copies; c++) order[starts[chosen[c]]++] = c;
        }
#pragma omp for schedule(dynamic)
        for (i64 tile = 0; tile < tiles; tile++) {
            i64 count = tile_ends[tile] - tile_starts[tile], e = owners[tile];
            const i64 *mine = order + tile_starts[tile];
            for (i64 r = 0; r < count; r++)
                for (i64 i = 0; i < d; i++) rows[r * d + i] = up(x[mine[r] / chosen_num * d + i]);
            multiply(count, d, 2 * inner, rows, d, gate_up + e * d * 2 * inner, 2 * inner, both, 2 * inner);
            for (i64 r = 0; r < count; r++) {
                float *gate = both + r * 2 * inner, *raised = gate + inner;
#pragma omp simd
                for (i64 i = 0; i < inner; i++) {
                    T rounded;  // as the model's own product would see it
                    put(&rounded, gate[i] * sigmoid(gate[i]) * raised[i]);
                    gate[i] = up(rounded);
                }
            }
            multiply(count, inner, d, both, 2 * inner, down + e * inner * d, d, sums, d);
            for (i64 r = 0; r < count; r++)
                for (i64 i = 0; i < d; i++) parts[mine[r] * d + i] = sums[r * d + i] * gates[mine[r]];
        }
#pragma omp for schedule(static)
        for (i64 row = 0; row < n; row++)
            for (i64 i = 0; i < d; i++) {
                float sum = up(out[row * d + i]);
                for (i64 k = 0; k < chosen_num; k++) sum += parts[(row * chosen_num + k) * d + i];
                put(out + row * d + i, sum);
            }
        free(rows);
    }
    free(chosen);
    free(tile_starts);
    free(gates);
}

// What Python calls; signatures stand in native/__init__.py as well.
extern "C" {
void native_decode_latents(i64 kind, i64 n, i64 heads, i64 nope, i64 rope, i64 rank, i64 value, i64 room, i64 query_stride,
                           i64 latent_stride, i64 interleaved, const void *queries, const void *latents, const float *norm, float eps,
                           const float *cosine, const float *sine, const i64 *positions, float scale, const void *up_key,
                           const void *up_value, void *memory, void *out) {
    BY_KIND(kind, decode_latents(n, heads, nope, rope, rank, value, room, query_stride, latent_stride, interleaved, (const T *)queries,
                                 (const T *)latents, norm, eps, cosine, sine, positions, scale, (const T *)up_key, (const T *)up_value,
                                 (T *)memory, (T *)out))
}
void native_add_experts(i64 kind, i64 n, i64 d, i64 inner, i64 experts, i64 chosen_num, i64 groups, i64 kept_groups, i64 normalized,
                        float scaling, const void *x, const float *logits, const float *bias, const void *gate_up, const void *down,
                        void *out) {
    BY_KIND(kind, add_experts(n, d, inner, experts, chosen_num, groups, kept_groups, normalized, scaling, (const T *)x, logits, bias,
                              (const T *)gate_up, (const T *)down, (T *)out))
}
}
