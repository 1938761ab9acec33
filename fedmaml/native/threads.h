// Threads that share clients, a few vectors at a time.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

constexpr int64_t TURN = 4;            // vectors that a thread takes at a time
constexpr int64_t MIN_VECTORS = 16;  // of a thread; with fewer, starting it costs more than it brings

// A thread's way through the vectors of clients: first clients of vectors, each at one thread only.
class Turns {
  std::atomic<int64_t>& taken;  // by all threads
  int64_t lanes, at = 0, end = 0;

 public:
  Turns(std::atomic<int64_t>& taken, int64_t lanes) : taken(taken), lanes(lanes) {}

  int64_t next() {
    if (at == end) end = (at = taken.fetch_add(TURN * lanes)) + TURN * lanes;
    int64_t first = at;
    at += lanes;
    return first;
  }
};

// Call work(memory, turns) on at most that many threads, this one among them; each has its own memory,
// which this thread keeps from call to call. Where the system starts no more threads, fewer do the work.
template <typename Memory, typename F>
void on_threads(int threads, int64_t clients, int64_t lanes, F work) {
  static thread_local std::vector<std::unique_ptr<Memory>> memories;
  int64_t vectors = (clients + lanes - 1) / lanes;
  size_t wanted = size_t(std::clamp<int64_t>(vectors / MIN_VECTORS, 1, std::max(threads, 1)));
  while (memories.size() < wanted) memories.emplace_back(new Memory());
  std::atomic<int64_t> taken{0};
  auto share = [&](Memory* memory) {
    Turns turns(taken, lanes);
    work(*memory, turns);
  };
  std::vector<std::thread> others;
  try {
    for (size_t i = 1; i < wanted; i++) others.emplace_back(share, memories[i].get());
  } catch (const std::system_error&) {
  }
  share(memories[0].get());
  for (auto& each : others) each.join();
}
