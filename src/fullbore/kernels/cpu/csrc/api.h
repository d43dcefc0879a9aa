// What Python calls: plain C functions, the same in the object of every instruction set.
#pragma once
#define FB_API extern "C" __attribute__((visibility("default")))
