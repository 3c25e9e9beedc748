// Latencies come as buckets: see `latency-bucket` in the contract.

/** Buckets in each power of two. */
const SUB = 32;

/** The number of buckets. */
const BUCKETS = 928;

export const latency = {
  /** The smallest latency in a bucket, in microseconds. Not by shifts, which JavaScript cuts to 32 bits. */
  lowerBound(index) {
    return index < 2 * SUB ? index : (SUB + (index % SUB)) * 2 ** (Math.floor(index / SUB) - 1);
  },

  /** The largest latency in a bucket, in microseconds. */
  upperBound(index) {
    return index + 1 >= BUCKETS ? latency.lowerBound(index) : latency.lowerBound(index + 1) - 1;
  },

  /** How many calls certainly took longer than `us` microseconds. */
  slowerThan(buckets, us) {
    const slow = buckets.filter((bucket) => latency.lowerBound(bucket.index) > us);
    return slow.reduce((sum, bucket) => sum + bucket.count, 0);
  },
};
