// A small fully connected network for many clients: clients are the lanes of a vector.
//
// Every number is a vector of one value per client, as wide as the processor's registers (with AVX-512
// 16 clients in float, 8 in double), so that ordinary scalar code computes a whole block of clients,
// and all k steps of a block run while its weights lie in cache. A lane never sees another lane: what is
// computed for a client does not depend, not even in its last bit, on who shares its block. Clients of
// unequal size share a block, too: a row past a client's own has coefficient 0 and adds an exact zero.
//
// Notation: z_l = h_{l-1} W_l' + b_l, h_l = a_l(z_l), h_0 = x, z_L the prediction; loss
// L(phi) = mean over rows of loss(z_L, y) + l2 |phi|^2.
//
//   reverse   e_L = dloss/dz_L / rows;  dW_l = e_l' h_{l-1};  db_l = sum over rows of e_l;
//             e_{l-1} = a'(z_{l-1}) o (e_l W_l)
//   curvature A product of the Hessian with v is the derivative of the reverse pass in direction v
//             (Pearlmutter 1994), with R{.} for that derivative:
//               R{z_l}   = h_{l-1} V_l' + c_l + R{h_{l-1}} W_l'      v = (V_l, c_l) for each layer
//               R{h_l}   = a'(z_l) o R{z_l}
//               R{e_L}   = (Hessian of the row's loss in z) R{z_L} / rows
//               R{dW_l}  = R{e_l}' h_{l-1} + e_l' R{h_{l-1}}
//               R{e_l-1} = a'(z_{l-1}) o (R{e_l} W_l + e_l V_l) + a''/a' o R{z_{l-1}} o e_{l-1}
//             relu: a' = [h > 0], a'' = 0;  tanh: a' = 1 - h^2, a''/a' = -2 h.
//             Where v is 0 in the layers below one, R{z} is 0 there, too.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tiles.h"

extern "C" {
struct Network {
  int32_t layers;                // linear layers
  const int32_t* width;          // layers + 1: inputs, ..., outputs
  const int32_t* activation;     // after each layer: 0 none, 1 relu, 2 tanh
  const int64_t *weight, *bias;  // where a layer's weight and bias begin in phi; bias -1: none
  int64_t entries;               // of phi
  int64_t shared;                // of them the first come from theta, the others are the client's own
  int32_t loss;                  // 0: scale * sum of squares, 1: cross-entropy, 2: binary
  double scale, l2;
};
struct Clients {
  int64_t count;
  const int64_t* order;                   // clients of similar size follow one another
  const int64_t *rows[2];                 // support, query
  const void *const *x[2], *const *y[2];  // of each client: rows * inputs; rows * outputs, or classes
  const double* weight;
  const void* own;  // of each client: what it keeps, or null
  int64_t kept;     // entries of it
};
}

template <typename T> struct Batch {  // rows of a block: inputs, targets, and the network's numbers
  typedef Vec<T> V;
  int rows = 0;
  std::vector<V> target, coefficient, probability;
  std::vector<std::vector<V>> h, e, rh, rz, re;
};

template <typename T> class Chain {  // the network at the clients of one vector
  typedef Vec<T> V;
  const Network& net;
  bool curved;
  int targets;

 public:
  // "curved": curvature is wanted.
  Chain(const Network& net, bool curved)
      : net(net), curved(curved), targets(net.loss == 0 ? net.width[net.layers] : 1) {}

  // Lay the rows of the clients in order[first ..] side by side, those of source "begin" up to "end" one
  // below the other. Rows have no targets if there are none.
  void load(Batch<T>& b, const Clients& from, int begin, int end, int64_t first, int lanes) const {
    const int64_t* client = &from.order[first];
    int64_t most = 0, done[Lanes<T>::count] = {};
    for (int lane = 0; lane < lanes; lane++) {
      int64_t count = 0;
      for (int source = begin; source < end; source++) count += from.rows[source][client[lane]];
      most = std::max(most, count);
    }
    resize(b, int(most));
    for (int source = begin; source < end; source++) copy(b, from, source, client, lanes, done);
    for (int lane = 0; lane < lanes; lane++)
      for (int64_t row = 0; row < done[lane]; row++)  // NaN where the target is
        b.coefficient[row][lane] = T(1) / T(done[lane]) + 0 * b.target[row * targets][lane];
  }

  // Fill h above layer "low"; what lies below must be filled.
  void propagate(Batch<T>& b, const V* w, int low = 0) const {
    for (int l = low; l < net.layers; l++) {
      int O = net.width[l + 1];
      V* z = b.h[l + 1].data();
      if (net.activation[l] == 1)
        add_product<RELU>(b, l, b.h[l].data(), w, w, z);
      else
        add_product<AS_IS>(b, l, b.h[l].data(), w, w, z);
      if (net.activation[l] == 2)
        for (int i = 0; i < b.rows * O; i++) z[i] = vtanh<T>(z[i]);
    }
  }

  // Fill h above layer "low", and e_L; return the mean loss, or nothing of use if it is not wanted.
  V forward(Batch<T>& b, const V* w, bool value_wanted = true, int low = 0) const {
    propagate(b, w, low);
    return loss(b, value_wanted);
  }

  // From e_L: all e above layer "low", and out = w + factor * gradient ("OTHER") or the gradient ("ZERO")
  // of the layers from "low" to "high"; out may be w, or null if only the e are wanted.
  template <Start from>
  void backward(Batch<T>& b, const V* w, V* out, T factor, int low, int high) const {
    for (int l = net.layers - 1; l >= low; l--) {
      const V* e = b.e[l + 1].data();
      if (l > low) through<ZERO>(b, l, b.e[l].data(), e, w);
      if (out && l < high) gradient_of<from>(b, l, e, b.h[l].data(), w, out, factor);
    }
  }

  // v <- v + factor * H(w) u, after both passes at w; u is 0 below layer "low", whatever it holds there.
  // u may be v.
  void curvature(Batch<T>& b, const V* w, const V* u, V* v, T factor, int low) const {
    for (int l = low; l < net.layers; l++) {
      int I = net.width[l], O = net.width[l + 1];
      V* rz = b.rz[l + 1].data();
      add_product<AS_IS>(b, l, b.h[l].data(), u, u, rz);
      if (l > low)
        multiply<OLD, AS_IS, T>(rz, {b.rh[l].data(), I, 1}, {w + net.weight[l], I, 1}, b.rows, O, I);
      if (l + 1 == net.layers) break;
      std::memcpy((void*)b.rh[l + 1].data(), rz, size_t(b.rows) * O * sizeof(V));
      through_activation(b, l + 1, b.rh[l + 1].data());
    }
    curvature_of_loss(b);
    for (int l = net.layers - 1; l >= 0; l--) {
      int I = net.width[l], O = net.width[l + 1];
      const V *e = b.e[l + 1].data(), *re = b.re[l + 1].data();
      V* next = b.re[l].data();
      if (l && l < low) through<ZERO>(b, l, next, re, w);
      if (l && l >= low) {
        multiply<ZERO, AS_IS, T>(next, {re, O, 1}, {w + net.weight[l], 1, I}, b.rows, I, O);
        through<OLD>(b, l, next, e, u);
        if (net.activation[l - 1] == 2 && l > low)
          for (int i = 0; i < b.rows * I; i++) next[i] -= 2 * b.h[l][i] * b.rz[l][i] * b.e[l][i];
      }
      gradient_of<OTHER>(b, l, re, b.h[l].data(), v, v, factor);
      int64_t at = net.weight[l];
      if (l > low)
        multiply<OTHER, AS_IS, T>(v + at, {e, 1, O}, {b.rh[l].data(), 1, I}, O, I, b.rows, v + at, factor);
    }
  }

  V penalty(const V* w) const {
    V sum{};
    for (int64_t i = 0; i < net.entries; i++) sum += w[i] * w[i];
    return sum * T(net.l2);
  }

 private:
  void resize(Batch<T>& b, int rows) const {
    b.rows = rows;
    for (auto* each : {&b.h, &b.e, &b.rh, &b.rz, &b.re}) {
      each->resize(net.layers + 1);
      bool used = curved || each == &b.h || each == &b.e;
      for (int l = 0; used && l <= net.layers; l++) (*each)[l].resize(size_t(rows) * net.width[l]);
    }
    b.probability.resize(size_t(rows) * net.width[net.layers]);
    std::fill_n((T*)b.h[0].data(), size_t(rows) * net.width[0] * Lanes<T>::count, T(0));
    b.target.assign(size_t(rows) * targets, V{});
    b.coefficient.assign(rows, V{});
  }

  // Lay the clients' rows of a source below those that are done.
  void copy(Batch<T>& b, const Clients& from, int source, const int64_t* client, int lanes,
            int64_t* done) const {
    constexpr int all_lanes = Lanes<T>::count;
    int I = net.width[0];
    int64_t shared = from.rows[source][client[0]];  // rows that all lanes have, at the same place
    const T* x[all_lanes];
    for (int lane = 0; lane < all_lanes; lane++) {
      int64_t own = client[lane < lanes ? lane : 0];  // what an unused lane computes, nobody reads
      x[lane] = (const T*)from.x[source][own];
      shared = lane < lanes && done[lane] != done[0] ? 0 : std::min(shared, from.rows[source][own]);
    }
    V* top = b.h[0].data() + done[0] * I;
    int64_t laid = transpose<T>(x, top, shared * I);
    for (int lane = 0; lane < lanes; lane++) {
      int64_t rows = from.rows[source][client[lane]];
      T* inputs = (T*)(b.h[0].data() + done[lane] * I) + lane;
      for (int64_t i = laid; i < rows * I; i++) inputs[i * all_lanes] = x[lane][i];
      T* outputs = (T*)(b.target.data() + done[lane] * targets) + lane;
      const void* y = from.y[source] ? from.y[source][client[lane]] : nullptr;
      for (int64_t i = 0; y && i < rows * targets; i++)
        outputs[i * all_lanes] = net.loss == 1 ? known(((const int64_t*)y)[i]) : ((const T*)y)[i];
      done[lane] += rows;
    }
  }

  // A class; NaN for what is none, which makes its client's numbers NaN.
  T known(int64_t target) const {
    bool is_class = target >= 0 && target < net.width[net.layers];
    return is_class ? T(target) : std::numeric_limits<T>::quiet_NaN();
  }

  V loss(Batch<T>& b, bool value_wanted) const {
    int O = net.width[net.layers];
    V total{};
    T scale = T(net.scale);
    for (int row = 0; row < b.rows; row++) {
      const V *z = &b.h[net.layers][row * O], *y = &b.target[row * targets];
      V *e = &b.e[net.layers][row * O], *p = &b.probability[row * O];
      V c = b.coefficient[row], value{};
      if (net.loss == 0) {
        for (int o = 0; o < O; o++) {
          V d = z[o] - y[o];
          value += d * d * scale;
          e[o] = d * (2 * scale) * c;
        }
      } else if (net.loss == 1) {
        V most = z[0], sum{}, own{};
        for (int o = 1; o < O; o++) most = larger(most, z[o]);
        for (int o = 0; o < O; o++) sum += p[o] = vexp<T>(z[o] - most);
        V inverse = T(1) / sum;
        for (int o = 0; o < O; o++) {
          Int<T> hit = y[0] == all<T>(T(o));
          p[o] *= inverse;
          own = hit ? z[o] : own;
          e[o] = (p[o] - (hit ? all<T>(1) : V{})) * c;
        }
        if (value_wanted) value = vlog<T>(sum) + most - own;
      } else {
        V q = vexp<T>(-absolute(z[0]));
        p[0] = (z[0] < 0 ? q : all<T>(1)) / (q + 1);
        if (value_wanted) value = (z[0] < 0 ? V{} : z[0]) - z[0] * y[0] + vlog<T>(q + 1);
        e[0] = (p[0] - y[0]) * c;
      }
      total += value * c;
    }
    return total;
  }

  // out = a'(z_{l-1}) o (start + e W_l)
  template <Start from> void through(Batch<T>& b, int l, V* out, const V* e, const V* w) const {
    int I = net.width[l], O = net.width[l + 1];
    Matrix<V> errors{e, O, 1}, weight{w + net.weight[l], 1, I};
    if (net.activation[l - 1] == 1)
      return multiply<from, GATED, T>(out, errors, weight, b.rows, I, O, b.h[l].data());
    multiply<from, AS_IS, T>(out, errors, weight, b.rows, I, O);
    through_activation(b, l, out);
  }

  void through_activation(Batch<T>& b, int l, V* e) const {  // e <- a'(z_{l-1}) o e
    const V* h = b.h[l].data();
    int n = b.rows * net.width[l];
    if (net.activation[l - 1] == 1)
      for (int i = 0; i < n; i++) e[i] = h[i] > 0 ? e[i] : V{};
    if (net.activation[l - 1] == 2)
      for (int i = 0; i < n; i++) e[i] *= 1 - h[i] * h[i];
  }

  // z = x W_l' + (bias of c), or relu of it
  template <Then then> void add_product(Batch<T>& b, int l, const V* x, const V* w, const V* c, V* z) const {
    int I = net.width[l], O = net.width[l + 1];
    Matrix<V> inputs{x, I, 1}, weight{w + net.weight[l], I, 1};
    if (net.bias[l] < 0)
      multiply<ZERO, then, T>(z, inputs, weight, b.rows, O, I);
    else
      multiply<COLUMNS, then, T>(z, inputs, weight, b.rows, O, I, c + net.bias[l]);
  }

  // Of layer l, out = from + factor * (e' h, and the sum of e over rows for the bias).
  template <Start from>
  void gradient_of(Batch<T>& b, int l, const V* e, const V* h, const V* start, V* out, T factor) const {
    int I = net.width[l], O = net.width[l + 1];
    int64_t at = net.weight[l];
    multiply<from, AS_IS, T>(out + at, {e, 1, O}, {h, 1, I}, O, I, b.rows, start + at, factor);
    if ((at = net.bias[l]) < 0) return;
    const V one = all<T>(1);
    multiply<from, AS_IS, T>(out + at, {e, 1, O}, {&one, 0, 0}, O, 1, b.rows, start + at, factor);
  }

  void curvature_of_loss(Batch<T>& b) const {  // R{e_L} from R{z_L}
    int O = net.width[net.layers];
    for (int row = 0; row < b.rows; row++) {
      const V *rz = &b.rz[net.layers][row * O], *p = &b.probability[row * O];
      V *re = &b.re[net.layers][row * O], c = b.coefficient[row], mean{};
      if (net.loss == 1)
        for (int o = 0; o < O; o++) mean += p[o] * rz[o];
      for (int o = 0; o < O; o++) {
        if (net.loss == 0) re[o] = T(2 * net.scale) * c * rz[o];
        if (net.loss == 1) re[o] = p[o] * (rz[o] - mean) * c;
        if (net.loss == 2) re[o] = p[o] * (1 - p[o]) * rz[o] * c;
      }
    }
  }
};

